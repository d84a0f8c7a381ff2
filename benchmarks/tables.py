"""Write every generated figure of README.md and docs from the records under benchmarks/results.

python benchmarks/tables.py
"""

import json
from pathlib import Path

import latency_tables
from columns import table
from protocol import write_pages
from sections import write_sections

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
    write_sections(RESULTS, ROOT / "docs")
    replace_between(ROOT / "docs" / "bench.md", "protocol", write_pages(RESULTS, ROOT / "docs"))
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
    lines = []
    for pair in pairs(records, HEADLINE[0]):
        if pair.other.endswith(("+ measured", "+ re-calibration")):
            interval = "" if pair.low is None else f"{pair.low:+.2f} to {pair.high:+.2f}"
            ahead = f"**{pair.ahead:+.2f}**" if pair.certain else f"{pair.ahead:+.2f}"
            lines.append((pair.network, pair.budget, pair.other, ahead, interval, str(pair.runs)))
    return table(("network", "budget", "against", "points ahead", "95 % interval", "seeds"), lines, texts=3)


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
