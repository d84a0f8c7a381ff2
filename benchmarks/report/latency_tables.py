"""The tables of the records of latency.py."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.report.columns import table

GOAL = 0.8
"""Target of the speed-up, as a fraction of the reduction of the MACs."""
ROUNDED, FREE = "macs<=50%, round_to=8", "macs<=50%, round_to=1"
SHOWN = 5
"""Number of operations in a breakdown."""

Record = Mapping[str, Any]


def to_markdown(records: Sequence[Record]) -> str:
    """All tables."""
    parts = [_speed_ups(records), _left_out(records), "### Predicted and measured", _predictions(records)]
    missed = [record for record in records if _reached(record, "eager") < GOAL]
    if missed:
        parts += ["### Where the time stays", *map(_breakdown, missed)]
    return "\n\n".join(part for part in parts if part)


def _speed_ups(records: Sequence[Record]) -> str:
    heads = ("network", "batch", "engine", "dense ms", "pruned ms", "MACs kept")
    lines = []
    for record in records:
        for engine in dict.fromkeys(row["engine"] for row in record["times"]):
            dense, rounded = (_row(record, engine, label)["latency"] for label in ("dense", ROUNDED))
            kept, reached = record["variants"][ROUNDED]["macs"], _reached(record, engine)
            cells = [record["network"], record["batch"], engine, _span(dense), _span(rounded), f"{kept:.1%}"]
            cells += [_ratio(record, engine, ROUNDED), f"{reached / GOAL:.0%}", _ratio(record, engine, FREE)]
            lines.append(cells)
    return table((*heads, "speed-up, round_to=8", "of the goal", "speed-up, round_to=1"), lines, texts=(0, 2))


def _left_out(records: Sequence[Record]) -> str:
    reasons = [
        f"{record['network']}, batch {record['batch']}, {engine}: {reason}"
        for record in records
        for engine, reason in record["not run"].items()
    ]
    return "Not run: " + "; ".join(reasons) + "." if reasons else ""


def _predictions(records: Sequence[Record]) -> str:
    heads = ("network", "batch", "entries", "seconds to measure", "pruned to", "latency kept, predicted")
    lines = []
    for record in (record for record in records if record["table"]):
        for label, numbers in record["variants"].items():
            ratio = _row(record, "eager", label)["speedup"]
            measured = f"{1 / ratio['median']:.1%} ({1 / ratio['upper']:.1%} to {1 / ratio['lower']:.1%})"
            times = record["table"]
            cells = [record["network"], record["batch"], times["entries"], f"{times['processor_seconds']:.0f}"]
            lines.append([*cells, label, f"{numbers['latency']:.1%}", measured])
    return table((*heads, "measured, eager"), lines, texts=(0, 4))


def _breakdown(record: Record) -> str:
    """The operations that exceed the time that the goal allows, and the sum of all others."""
    allowed = record["variants"][ROUNDED]["macs"] / GOAL
    rows = sorted(record["layers"], key=lambda row: allowed * row["dense_ms"] - row["pruned_ms"])
    heads = ("operation", "calls", "dense ms", "pruned ms", "MACs kept", "ms beyond the goal")
    lines = [
        *(_cells(row["name"], [row], allowed) for row in rows[:SHOWN]),
        _cells("all others", rows[SHOWN:], allowed),
    ]
    return f"{record['network']}, batch {record['batch']}, eager:\n\n{table(heads, lines)}"


def _cells(name: str, rows: Sequence[Record], allowed: float) -> Iterator[str]:
    dense, pruned = (sum(row[key] for row in rows) for key in ("dense_ms", "pruned_ms"))
    before, after = (sum(row["macs"][n] for row in rows) for n in (0, 1))
    yield from (name, str(sum(row["calls"] for row in rows)), f"{dense:.3g}", f"{pruned:.3g}")
    yield from (f"{after / before:.1%}" if before else "", f"{pruned - allowed * dense:+.2g}")


def _row(record: Record, engine: str, label: str) -> Record:
    return next(row for row in record["times"] if (row["engine"], row["variant"]) == (engine, label))


def _reached(record: Record, engine: str) -> float:
    """The speed-up as a fraction of the reduction of the MACs."""
    return _row(record, engine, ROUNDED)["speedup"]["median"] * record["variants"][ROUNDED]["macs"]


def _ratio(record: Record, engine: str, label: str) -> str:
    if label not in record["variants"]:
        return ""
    found = _row(record, engine, label)["speedup"]
    return f"{found['median']:.2f} ({found['lower']:.2f} to {found['upper']:.2f})"


def _span(latency: Record) -> str:
    return f"{latency['median_ms']:.3g} ({latency['lower_ms']:.3g} to {latency['upper_ms']:.3g})"
