"""The headline numbers of a report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log10
from statistics import mean, median

from scionet.bench.report.study import Study
from scionet.extras import extra

with extra("report"):
    from matplotlib.ticker import EngFormatter


@dataclass(frozen=True)
class Card:
    """One headline number.

    Attributes:
        label: Name of the number.
        value: The number as text.
        note: Its context.
    """

    label: str
    value: str
    note: str


def cards(study: Study) -> tuple[Card, ...]:
    """The headline method at the budget in focus: accuracy, costs, speed, and whether the cut was verified."""
    return tuple(card for make in (_accuracy, _macs, _params, _speed, _verified) for card in make(study))


def _accuracy(study: Study) -> Iterator[Card]:
    row, seen = study.best, study.best.records[0].pruned.seen
    before = study.dense.accuracy.text(study.dense.digits)
    yield Card("Accuracy", f"{row.accuracy.text(row.digits)} %", f"dense {before} %, {seen:,} test examples")


def _macs(study: Study) -> Iterator[Card]:
    records = study.best.records
    note = _change([r.dense.macs for r in records], [r.pruned.macs for r in records])
    yield Card("MACs kept", f"{study.best.macs.mean:.1f} %", note)


def _params(study: Study) -> Iterator[Card]:
    records = study.best.records
    note = _change([r.dense.params for r in records], [r.pruned.params for r in records])
    yield Card("Parameters kept", f"{study.best.params.mean:.1f} %", note)


def _speed(study: Study) -> Iterator[Card]:
    pairs = [(r.dense.latency, r.pruned.latency) for r in study.best.records]
    timed = [(before, after) for before, after in pairs if before and after]
    if study.best.speedup:
        before, after = (median(latency.median_ms for latency in side) for side in zip(*timed, strict=True))
        note = f"{before:.3g} → {after:.3g} ms for {timed[0][1].batch_size} examples"
        yield Card("Speed-up", f"× {study.best.speedup.mean:.2f}", note)


def _verified(study: Study) -> Iterator[Card]:
    found = [r.max_relative_difference for row in study.rows for r in row.records]
    checked = [difference for difference in found if difference is not None]
    if checked:
        note = f"largest difference to the masked network; {len(checked)} of {len(found)} verified"
        yield Card("Verified cuts", f"{max(checked):.0e}", note)


def _change(before: Sequence[float], after: Sequence[float]) -> str:
    """Means before and after pruning with the same unit prefix: ``"1.94 M → 0.97 M"``."""
    exponent = 3 * int(log10(mean(before)) // 3)
    prefix = EngFormatter.ENG_PREFIXES[exponent]
    return " → ".join(f"{mean(side) / 10**exponent:.2f}\N{NO-BREAK SPACE}{prefix}".strip() for side in (before, after))
