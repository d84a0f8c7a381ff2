"""Write every generated figure of README.md and docs from the records under benchmarks/results.

python -m benchmarks.report.tables
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks import DOCS, RESULTS, ROOT
from benchmarks.report import latency_tables
from benchmarks.report.columns import table
from benchmarks.report.protocol import write_pages
from benchmarks.report.sections import write_sections
from scionet.bench.records.record import RunRecord, load_all
from scionet.bench.report.page import write_html
from scionet.bench.report.pairs import pairs
from scionet.bench.report.summary import summarise
from scionet.bench.report.tables import replace_between, to_csv, to_markdown, to_matrix

RIVAL = "best of torch-pruning + re-calibration"
FORWARD = "forward least squares + measured"
FURTHER = ("", " + reconstruction", " + trials", " + trials + reconstruction")
"""What greedy selection and its controls may do beyond."""
HEADLINE = (
    *(FORWARD + more for more in FURTHER),
    "l1 + least squares + measured",
    "random + least squares + measured",
    RIVAL,
    "forward least squares",
    "l1 + least squares",
    "random + least squares",
    "l1",
    "random",
)
"""What README and docs/benchmarks.html show."""


def main() -> None:
    """Write all tables."""
    records = load_all(RESULTS / "untrained")
    chosen = [record for record in (*records, *_best_rivals(records)) if record.spec.method in HEADLINE]
    replace_between(ROOT / "README.md", "untrained", to_matrix(summarise(chosen)))
    page = DOCS / "benchmarks.md"
    replace_between(page, "untrained", _per_network(records))
    replace_between(page, "pairs", _pairs(records))
    replace_between(page, "rivals", _rivals(records))
    replace_between(page, "speed", _speed())
    latencies = [json.loads(path.read_text()) for path in sorted((RESULTS / "latency").glob("*.json"))]
    replace_between(page, "latency", latency_tables.to_markdown(latencies))
    write_sections(RESULTS, DOCS)
    replace_between(DOCS / "bench.md", "protocol", write_pages(RESULTS, DOCS))
    (RESULTS / "untrained.csv").write_text(to_csv(summarise(records)))
    write_html(chosen, DOCS / "benchmarks.html", "scionet: accuracy right after the cut", FORWARD)


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
    """How the names end of those that do as much."""
    return (f"+ measured{more}",) if more else ("+ measured", "+ re-calibration")


Place = tuple[str, str]
"""Network and budget."""


def _drops(records: Sequence[RunRecord]) -> dict[Place, dict[str, float]]:
    """Points lost on average, by network and budget, and method."""
    found: dict[Place, dict[str, float]] = {}
    for row in summarise(records):
        if row.drop is not None:
            found.setdefault((row.network, row.budget), {})[row.method] = row.drop.mean
    return found


def _best_rival(drops: Mapping[str, float]) -> str | None:
    """The pruner of Torch-Pruning that loses least, re-calibrated."""
    theirs = [name for name in drops if name.startswith("torch-pruning") and name.endswith("+ re-calibration")]
    return min(theirs, key=drops.__getitem__, default=None)


def _best_rivals(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Its runs for each network and budget, under one name."""
    best = {place: _best_rival(drops) for place, drops in _drops(records).items()}
    found = [record for record in records if best[record.spec.network, record.spec.budget] == record.spec.method]
    return [replace(record, spec=replace(record.spec, method=RIVAL)) for record in found]


def _rivals(records: Sequence[RunRecord]) -> str:
    """How many points the best pruner of Torch-Pruning loses for one that is lost here."""
    lines = []
    for (network, budget), drops in sorted(_drops(records).items()):
        best = _best_rival(drops)
        if best is not None and FORWARD in drops:
            ours = [_beside(drops.get(FORWARD + more), drops[best]) for more in FURTHER]
            lines.append((network, budget, best, f"{drops[best]:.2f}", *ours))
    head = ("network", "budget", "best pruner of Torch-Pruning", "it loses", "forward loses")
    return table((*head, *(more.removeprefix(" ") for more in FURTHER[1:])), lines, texts=3)


def _beside(lost: float | None, by_rival: float) -> str:
    """Points lost, and as which part of what the rival loses, where any are lost."""
    if lost is None:
        return ""
    return f"{lost:.2f} (1/{by_rival / lost:.1f})" if lost > 0 else f"{lost:.2f}"


def _speed() -> str:
    found = [json.loads(path.read_text()) for path in sorted((RESULTS / "speed").glob("*.json"))]
    rows = [row for entry in found for row in entry["rows"]]
    lines = [(row["name"], f"{row['value']:.3g} {row['unit']}", row["meaning"]) for row in rows]
    return table(("measurement", "value", "what it is"), lines, texts=(0, 2))


if __name__ == "__main__":
    main()
