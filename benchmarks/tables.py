"""Write every generated figure of README.md and docs/benchmarks.md from the records under benchmarks/results.

python benchmarks/tables.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import latency_tables
import matplotlib
from matplotlib.figure import Figure

from scionet.bench.pairs import pairs
from scionet.bench.record import RunRecord, load_all
from scionet.bench.report import write_html
from scionet.bench.summary import summarise
from scionet.bench.tables import replace_between, to_csv, to_markdown, to_matrix

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
HEADLINE = (
    "forward least squares + measured",
    "l1 + least squares + measured",
    "random + least squares + measured",
    "forward least squares + curves",
    "l1 + least squares + curves",
    "random + least squares + curves",
    "torch-pruning magnitude (global) + re-calibration",
    "forward least squares",
    "l1 + least squares",
    "random + least squares",
    "l1",
    "random",
)
"""What README shows."""


def main() -> None:
    """Write all tables."""
    records = load_all(RESULTS / "untrained")
    chosen = [record for record in records if record.spec.method in HEADLINE]
    replace_between(ROOT / "README.md", "untrained", to_matrix(summarise(chosen)))
    page = ROOT / "docs" / "benchmarks.md"
    replace_between(page, "untrained", _per_network(records))
    replace_between(page, "pairs", _pairs(records))
    replace_between(page, "speed", _speed())
    latencies = [json.loads(path.read_text()) for path in sorted((RESULTS / "latency").glob("*.json"))]
    replace_between(page, "latency", latency_tables.to_markdown(latencies))
    theory = json.loads((RESULTS / "theory" / "resnet20.json").read_text())["curves"]
    replace_between(page, "theory", _theory(theory))
    _draw_theory(theory, ROOT / "docs" / "theory.svg")
    (RESULTS / "untrained.csv").write_text(to_csv(summarise(records)))
    complete = {record.spec.network for record in records if record.spec.method == HEADLINE[0]}
    shown = [record for record in records if record.spec.network in complete]
    write_html(shown, ROOT / "docs" / "benchmarks.html", "scionet: accuracy right after the cut", HEADLINE[0])


def _per_network(records: tuple[RunRecord, ...]) -> str:
    parts = []
    for network in dict.fromkeys(record.spec.network for record in records):
        mine = [record for record in records if record.spec.network == network]
        parts.append(f"### {network} on {mine[0].spec.dataset}\n\n{to_markdown(summarise(mine))}")
    return "\n\n".join(parts)


def _pairs(records: tuple[RunRecord, ...]) -> str:
    lines = [
        "| network | budget | against | points ahead | 95 % interval | seeds |",
        "| :-- | :-- | :-- | --: | --: | --: |",
    ]
    for pair in pairs(records, HEADLINE[0]):
        if pair.other.endswith(("+ measured", "+ re-calibration")):
            interval = "" if pair.low is None else f"{pair.low:+.2f} to {pair.high:+.2f}"
            ahead = f"**{pair.ahead:+.2f}**" if pair.certain else f"{pair.ahead:+.2f}"
            lines.append(f"| {pair.network} | {pair.budget} | {pair.other} | {ahead} | {interval} | {pair.runs} |")
    return "\n".join(lines)


def _theory(curves: Mapping[str, Mapping[str, Any]]) -> str:
    names = [name for name in next(iter(curves.values())) if name != "gamma"]
    lines = [f"| site | kept | {' | '.join(names)} |", f"| :-- | --: |{' --: |' * len(names)}"]
    for site, rows in curves.items():
        size = len(rows["greedy"])
        for kept in (size // 8, size // 4, size // 2, 3 * size // 4):
            errors = " | ".join(f"{rows[name][kept - 1]:.4f}" for name in names)
            lines.append(f"| {site} | {kept} of {size} | {errors} |")
    return "\n".join(lines)


def _draw_theory(curves: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    look = {
        "random": {"color": "#cc79a7", "linestyle": ":"},
        "distributed": {"color": "#009e73", "linestyle": "--"},
        "stochastic": {"color": "#d55e00", "linestyle": "-."},
        "greedy": {"color": "#0072b2", "linewidth": 2.2},
        "least possible": {"color": "#000000", "linewidth": 0.9},
    }
    with matplotlib.rc_context({"svg.hashsalt": "scionet", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained", facecolor="white")
        for axes, (site, rows) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
            for name, style in look.items():
                axes.semilogy(range(1, len(rows[name])), rows[name][:-1], label=name, **style)
            axes.set(title=site, xlabel="units kept", ylabel="relative error of the consumer")
        figure.axes[0].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _speed() -> str:
    found = [json.loads(path.read_text()) for path in sorted((RESULTS / "speed").glob("*.json"))]
    lines = ["| measurement | value | what it is |", "| :-- | --: | :-- |"]
    lines += [
        f"| {row['name']} | {row['value']:.3g} {row['unit']} | {row['meaning']} |"
        for entry in found
        for row in entry["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
