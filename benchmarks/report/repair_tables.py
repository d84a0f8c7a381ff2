"""The table of docs/repair.md, made from the records of repair.py."""

from collections.abc import Iterator, Sequence

from benchmarks.report.columns import table
from benchmarks.run.repair import DEFAULTS, FEWER, SWITCHES, few_images
from scionet.bench.records.record import RunRecord
from scionet.bench.report.pairs import Pair, pairs
from scionet.bench.report.summary import DENSE, summarise

HEADS = ("network", "switch", "accuracy %", "points gained", "95 % interval", "seconds")


def to_markdown(records: Sequence[RunRecord]) -> str:
    """Accuracy with one changed setting at a time, and the gain over the defaults on the same images."""
    return table(HEADS, [*_lines(records)], texts=2)


def _lines(records: Sequence[RunRecord]) -> Iterator[Sequence[str]]:
    against, rows = _against_defaults(records), {(row.network, row.method): row for row in summarise(records)}
    for network in dict.fromkeys(record.spec.network for record in records):
        for name in (DENSE, *SWITCHES, *map(few_images, FEWER)):
            if row := rows.get((network, name)):
                gain, interval = _gain(against.get((network, name)))
                seconds = "" if row.seconds is None else f"{row.seconds.mean:,.0f}"
                switch = name if name == DENSE else f"`{name}`"
                yield network, switch, row.accuracy.text(row.digits), gain, interval, seconds


def _against_defaults(records: Sequence[RunRecord]) -> dict[tuple[str, str], Pair]:
    """The defaults compared with every setting on the same images, by network and setting."""
    found = {}
    for base, names in ((DEFAULTS, SWITCHES), (few_images(DEFAULTS), [*map(few_images, FEWER)])):
        found |= {(pair.network, pair.other): pair for pair in pairs(records, base) if pair.other in names}
    return found


def _gain(pair: Pair | None) -> tuple[str, str]:
    """The gain of the second method of a pair, and its interval."""
    if pair is None:
        return "", ""
    gain = f"{0 - pair.ahead:+.2f}"  # not -0.0
    if pair.low is None or pair.high is None:
        return gain, ""
    return f"**{gain}**" if pair.certain else gain, f"{0 - pair.high:+.2f} to {0 - pair.low:+.2f}"
