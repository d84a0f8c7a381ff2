"""Write all generated tables and figures of README.md and docs from the records in benchmarks/results.

python -m benchmarks.report.tables
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks import DOCS, RESULTS, ROOT
from benchmarks.records import recorded_runs
from benchmarks.report import latency_tables
from benchmarks.report.columns import table
from benchmarks.report.headline_figure import plot_headline
from benchmarks.report.protocol import protocol_section
from benchmarks.report.readme import write_output
from benchmarks.report.sections import write_sections
from scionet.bench.records.record import RunRecord
from scionet.bench.records.record_files import read_value
from scionet.bench.report.pairs import pairs
from scionet.bench.report.summary import summarise
from scionet.bench.report.tables import replace_between, to_markdown, to_matrix

RIVAL = "best of torch-pruning + recalibration"
FORWARD = "forward least squares + sensitivity"
CONTROL = "l1 + refit + sensitivity"
FURTHER = ("", " + reconstruction", " + search", " + search + reconstruction")
"""Optional additions to greedy selection and its controls."""
HEADLINE = (
    *(FORWARD + more for more in FURTHER),
    CONTROL,
    "random + refit + sensitivity",
    RIVAL,
    "forward least squares",
    "l1 + refit",
    "random + refit",
    "l1",
    "random",
)
"""The methods of the short table in docs/benchmarks.md and of the page benchmarks.html."""


def main() -> None:
    """Write all tables and figures."""
    records = recorded_runs(RESULTS / "untrained")
    chosen = headline_records(records)
    plot_headline(chosen, (FORWARD, CONTROL, RIVAL), DOCS / "accuracy.svg")
    write_output(ROOT / "README.md")
    page = DOCS / "benchmarks.md"
    replace_between(page, "headline", to_matrix(summarise(chosen)))
    replace_between(page, "untrained", _per_network(records))
    replace_between(page, "pairs", _pairs(records))
    replace_between(page, "rivals", _rivals(records))
    replace_between(page, "speed", _speed())
    latencies = [read_value(dict, path) for path in sorted((RESULTS / "latency").glob("*.json"))]
    replace_between(page, "latency", latency_tables.to_markdown(latencies))
    write_sections(RESULTS, DOCS)
    replace_between(DOCS / "bench.md", "protocol", protocol_section(RESULTS))


def headline_records(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs of the methods in `HEADLINE`, out of all runs of the untrained benchmark."""
    return [record for record in (*records, *_best_rivals(records)) if record.spec.method in HEADLINE]


def _per_network(records: tuple[RunRecord, ...]) -> str:
    parts = []
    for network in dict.fromkeys(record.spec.network for record in records):
        mine = [record for record in records if record.spec.network == network]
        parts.append(f"### {network} on {mine[0].spec.dataset}\n\n{to_markdown(summarise(mine))}")
    return "\n\n".join(parts)


def _pairs(records: tuple[RunRecord, ...]) -> str:
    lines = []
    found = [pair for more in FURTHER for pair in pairs(records, FORWARD + more) if pair.other.endswith(_rated(more))]
    for pair in sorted(found, key=lambda pair: (pair.network, pair.budget, pair.ahead)):
        interval = "" if pair.low is None else f"{pair.low:+.2f} to {pair.high:+.2f}"
        ahead = f"**{pair.ahead:+.2f}**" if pair.certain else f"{pair.ahead:+.2f}"
        lines.append((pair.network, pair.budget, pair.other, ahead, interval, str(pair.runs)))
    return table(("network", "budget", "against", "points ahead", "95 % interval", "seeds"), lines, texts=3)


def _rated(more: str) -> tuple[str, ...]:
    """Endings of the names of methods with the same additions."""
    return (f"+ sensitivity{more}",) if more else ("+ sensitivity", "+ recalibration")


Place = tuple[str, str]
"""Network and budget."""


def _drops(records: Sequence[RunRecord]) -> dict[Place, dict[str, float]]:
    """Mean points lost, by network and budget, then by method."""
    found: dict[Place, dict[str, float]] = {}
    for row in summarise(records):
        if row.drop is not None:
            found.setdefault((row.network, row.budget), {})[row.method] = row.drop.mean
    return found


def _best_rival(drops: Mapping[str, float]) -> str | None:
    """The recalibrated pruner of Torch-Pruning that loses the fewest points."""
    theirs = [name for name in drops if name.startswith("torch-pruning") and name.endswith("+ recalibration")]
    return min(theirs, key=drops.__getitem__, default=None)


def _best_rivals(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs of the best rival for each network and budget, under the name `RIVAL`."""
    best = {place: _best_rival(drops) for place, drops in _drops(records).items()}
    found = [record for record in records if best[record.spec.network, record.spec.budget] == record.spec.method]
    return [replace(record, spec=replace(record.spec, method=RIVAL)) for record in found]


def _rivals(records: Sequence[RunRecord]) -> str:
    """Points lost by the best pruner of Torch-Pruning, compared with forward selection."""
    lines = []
    for (network, budget), drops in sorted(_drops(records).items()):
        best = _best_rival(drops)
        if best is not None and FORWARD in drops:
            ours = [_beside(drops.get(FORWARD + more), drops[best]) for more in FURTHER]
            lines.append((network, budget, best, f"{drops[best]:.2f}", *ours))
    head = ("network", "budget", "best pruner of Torch-Pruning", "it loses", "forward loses")
    return table((*head, *(more.removeprefix(" ") for more in FURTHER[1:])), lines, texts=3)


def _beside(lost: float | None, by_rival: float) -> str:
    """Points lost and, if there are any, their fraction of the points that the rival loses."""
    if lost is None:
        return ""
    return f"{lost:.2f} (1/{by_rival / lost:.1f})" if lost > 0 else f"{lost:.2f}"


def _speed() -> str:
    found = [read_value(dict, path) for path in sorted((RESULTS / "speed").glob("*.json"))]
    rows = [row for entry in found for row in entry["rows"]]
    lines = [(row["name"], f"{row['value']:.3g} {row['unit']}", row["meaning"]) for row in rows]
    return table(("measurement", "value", "what it is"), lines, texts=(0, 2))


if __name__ == "__main__":
    main()
