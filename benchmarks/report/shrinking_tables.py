"""The table of networks that shrank during training, made from the records of benchmarks/configs/shrinking.toml."""

from collections.abc import Iterator, Sequence

from benchmarks.report.columns import table
from scionet.bench.records.record import RunRecord
from scionet.bench.report.pairs import pairs
from scionet.bench.report.summary import DENSE, Row, summarise

SHRUNK, TWIN = " + shrunk", " + one-shot twin"
HEADS = ("method", "shrunk, then fine-tuned, %", "one-shot twin, %", "ahead by, points", "units left with weights")


def to_markdown(records: Sequence[RunRecord]) -> str:
    """For each budget, every method beside its one-shot twin, the most accurate first."""
    rows = summarise(records)
    dense = next(row for row in rows if row.method == DENSE)
    budgets = dict.fromkeys(row.budget for row in rows if row.method != DENSE)
    parts = [f"Dense: {dense.accuracy.text(dense.digits)} %."]
    for budget in budgets:
        found = {row.method: row for row in rows if row.budget == budget}
        parts.append(f"**{dense.network}** on {dense.dataset}, `{budget}`\n\n{table(HEADS, _lines(found, records))}")
    return "\n\n".join(parts)


def _lines(rows: dict[str, Row], records: Sequence[RunRecord]) -> Iterator[Sequence[str]]:
    for name, row in rows.items():
        if not name.endswith(SHRUNK):
            continue
        method = name.removesuffix(SHRUNK)
        twin, (pair,) = rows[method + TWIN], [p for p in pairs(records, name) if p.other == method + TWIN]
        gap = f"{pair.ahead:+.2f} ({pair.low:+.2f} to {pair.high:+.2f})"
        left = sum(_left(record) for record in row.records)
        yield (
            method,
            row.accuracy.text(row.digits),
            twin.accuracy.text(twin.digits),
            f"**{gap}**" if pair.certain else gap,
            f"{left / len(row.records):.0f} of {sum(site.width for site in row.records[0].sites)}",
        )


def _left(record: RunRecord) -> int:
    """Units that still had weights at the end of the training, before the cut."""
    return sum(site.width for site in record.sites) - record.trace[-1]["at_zero"]
