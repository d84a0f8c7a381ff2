"""The table and the figure of the records of collapse.py."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report.columns import table
from benchmarks.report.figures import figure_of
from scionet.bench.records.record_files import read_value

LINE_STYLES: Mapping[str, Mapping[str, Any]] = {
    "random": {"color": "#cc79a7", "linestyle": ":"},
    "magnitude": {"color": "#e69f00", "linestyle": (0, (5, 2))},
    "snip": {"color": "#009e73", "linestyle": "-."},
    "synflow": {"color": "#0072b2", "linewidth": 2.2},
}
HEADS = (
    *("network", "score", "no layer empty up to, log10", "a path left up to, log10"),
    *("layers empty at 10^2", "at 10^3", "at the last"),
)

Record = Mapping[str, Any]
Entry = Mapping[str, Any]


def load_records(folder: Path) -> list[Record]:
    """Load all records, sorted by file name."""
    return [read_value(dict, path) for path in sorted(folder.glob("*.json"))]


def to_markdown(records: Sequence[Record]) -> str:
    """A row for each network and score; a range where the seeds differ."""
    lines = []
    for network in dict.fromkeys(record["network"] for record in records):
        mine = [record for record in records if record["network"] == network]
        most = np.log10(mine[0]["weights"] / mine[0]["layers"])
        label = f"{network}: {mine[0]['weights']:,} weights, {mine[0]['layers']} layers, at most {most:.2f}"
        lines += [(label, score, *_cells(mine, score)) for score in LINE_STYLES]
    return table(HEADS, lines, texts=2)


def _cells(records: Sequence[Record], score: str) -> Iterator[str]:
    curves = [record["curves"][score] for record in records if score in record["curves"]]
    yield _range([_reach(curve, lambda entry: not entry["empty"]) for curve in curves], 2)
    yield _range([_reach(curve, lambda entry: entry["connected"]) for curve in curves], 2)
    for power in (2.0, 3.0, None):
        yield _range([len(_at(curve, power)["empty"]) for curve in curves], 0)


def _reach(curve: Sequence[Entry], holds: Callable[[Entry], bool]) -> float:
    """log10 of the largest compression up to which a condition holds; 0 if it never holds."""
    reached = 0.0
    for entry in curve:
        if not holds(entry):
            break
        reached = float(np.log10(entry["compression"]))
    return reached


def _at(curve: Sequence[Entry], power: float | None) -> Entry:
    """The entry closest to a power of ten; the last entry for None."""
    if power is None:
        return curve[-1]
    return min(curve, key=lambda entry: abs(np.log10(entry["compression"]) - power))


def _range(values: Sequence[float], digits: int) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low}–{high}"


def plot(records: Sequence[Record], path: Path) -> None:
    """Plot the share of empty layers against compression: a panel per network, a line per score and seed."""
    networks = [*dict.fromkeys(record["network"] for record in records)]
    with figure_of(path, (9.6, 3.2)) as figure:
        panels = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
        for axes, network in zip(panels, networks, strict=True):
            axes.set(title=network, xscale="log", xlabel="weights per weight kept", ylim=(-0.02, 1))
            mine = [record for record in records if record["network"] == network]
            for record in mine:
                for score, curve in record["curves"].items():
                    shares = [len(entry["empty"]) / record["layers"] for entry in curve]
                    label = score if record is mine[0] else None
                    axes.plot([entry["compression"] for entry in curve], shares, label=label, **LINE_STYLES[score])
        panels[0].set_ylabel("share of layers without a weight")
        panels[0].legend(frameon=False)
