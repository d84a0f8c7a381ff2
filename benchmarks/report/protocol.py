"""The results in docs/bench.md, made from the records of the experiments in benchmarks/configs.

`scionet bench run benchmarks/configs/smoke.toml --out benchmarks/results/smoke` makes the records of one experiment,
and `scionet bench pack benchmarks/results/smoke/records` packs them into the committed file records.jsonl.
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.records import recorded_runs
from benchmarks.report.columns import table
from scionet.bench.records.ledger import total
from scionet.bench.records.record import RunRecord
from scionet.bench.report.pairs import pairs
from scionet.bench.report.summary import Row, summarise

EXPERIMENTS = {
    "smoke": "forward least squares + sensitivity + fine-tuned",
    "tickets": "lottery ticket",
    "small": "forward least squares + sensitivity + fine-tuned",
}
"""Name and headline method of each experiment."""


def protocol_section(results: Path) -> str:
    """The tables of all experiments, as Markdown."""
    parts = ("\n".join(_part(name, experiment_records(results, name))) for name in EXPERIMENTS)
    return "\n\n".join(parts)


def experiment_records(results: Path, name: str) -> tuple[RunRecord, ...]:
    """The records of one experiment."""
    return recorded_runs(results / name / "records")


def _part(name: str, records: tuple[RunRecord, ...]) -> Iterator[str]:
    headline = EXPERIMENTS[name]
    yield f"**{name}** ({len(records)} runs, `benchmarks/configs/{name}.toml`)"
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
    """The MACs in the ledgers of a row, in thousands of forward passes of the dense network; mean over runs."""
    if not row.budget:
        return ""
    paid = [total(record.ledger)[1] / record.dense.macs / 1e3 for record in row.records]
    return f"{sum(paid) / len(paid):,.0f}"
