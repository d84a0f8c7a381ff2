"""The part of docs/bench.md that says what was found, from the records of the experiments under results/.

`scionet bench run benchmarks/configs/smoke.toml --out benchmarks/results/smoke` makes them (the others
likewise); of such a folder only records/ is kept. Called by `python -m benchmarks.report.tables`.
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.report.columns import table
from scionet.bench.records.ledger import total
from scionet.bench.records.record import RunRecord, load_all
from scionet.bench.report.page import write_html
from scionet.bench.report.pairs import pairs
from scionet.bench.report.summary import Row, summarise

EXPERIMENTS = {
    "smoke": "forward least squares + measured + fine-tuned",
    "tickets": "lottery ticket",
    "small": "forward least squares + measured + fine-tuned",
}
"""Name and headline of each experiment."""


def write_pages(results: Path, docs: Path) -> str:
    """One page for each experiment that has records; the Markdown about all of them."""
    parts = []
    for name, headline in EXPERIMENTS.items():
        folder = results / name / "records"
        if folder.exists():
            records = load_all(folder)
            write_html(records, docs / f"bench-{name}.html", f"scionet bench: {name}", headline)
            parts.append("\n".join(_part(name, headline, records)))
    return "\n\n".join(parts)


def _part(name: str, headline: str, records: tuple[RunRecord, ...]) -> Iterator[str]:
    yield f"**{name}** ([page](bench-{name}.html), {len(records)} runs, `benchmarks/{name}.toml`)"
    yield ""
    behind = {(pair.budget, pair.other): pair for pair in pairs(records, headline)}
    lines = []
    for row in summarise(records):
        pair = behind.get((row.budget, row.method))
        gap = ""
        if pair is not None:
            gap = f"{pair.ahead:+.2f}" + ("" if pair.low is None else f" ({pair.low:+.2f} to {pair.high:+.2f})")
            gap = f"**{gap}**" if pair.certain else gap
        cells = (row.budget, row.method, row.accuracy.text(row.digits), _passes(row), gap, str(row.runs))
        lines.append(cells)
    yield table(
        ("budget", "method", "accuracy, %", "1,000 forward passes", f"{headline} ahead by, points", "runs"),
        lines,
        texts=2,
    )


def _passes(row: Row) -> str:
    """All MACs of a run's ledger, in thousands of forward passes of the dense network."""
    if not row.budget:
        return ""
    paid = [total(record.ledger)[1] / record.dense.macs / 1e3 for record in row.records]
    return f"{sum(paid) / len(paid):,.0f}"
