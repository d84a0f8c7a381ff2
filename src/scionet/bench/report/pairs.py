"""Paired differences between two methods on the same network, budget and seeds, with intervals."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scionet.bench.records.record import RunRecord, decode_answers
from scionet.bench.report.intervals import CONFIDENCE, differences, paired_interval

Run = tuple[str, str, str]
"""Network, budget and method."""


@dataclass(frozen=True)
class Pair:
    """The lead of a method over another.

    Attributes:
        network: Name of the network.
        budget: The budget as text.
        method: Name of the method.
        other: Name of the other method.
        ahead: Mean difference of the accuracies over the common seeds, percentage points.
        low: Lower end of its 95 % interval; None for a single seed. The interval is over seeds and test examples
            (`paired_interval`) if the records have the answers to single examples, else Student's t over seeds.
        high: Upper end of the interval.
        runs: Number of seeds.
    """

    network: str
    budget: str
    method: str
    other: str
    ahead: float
    low: float | None
    high: float | None
    runs: int

    @property
    def certain(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def pairs(records: Sequence[RunRecord], method: str) -> list[Pair]:
    """Compare a method with every other one that shares seeds with it; the smallest lead comes first."""
    by_run: defaultdict[Run, dict[int, RunRecord]] = defaultdict(dict)
    for record in records:
        spec = record.spec
        by_run[spec.network, spec.budget, spec.method][spec.seed] = record
    found = []
    for (network, budget, other), theirs in by_run.items():
        own = by_run.get((network, budget, method), {})
        shared = sorted(own.keys() & theirs.keys())
        if other != method and shared:
            both = [own[seed] for seed in shared], [theirs[seed] for seed in shared]
            gaps = [100 * (a.pruned.accuracy - b.pruned.accuracy) for a, b in zip(*both, strict=True)]
            found.append(Pair(network, budget, method, other, float(np.mean(gaps)), *_interval(gaps, *both), len(gaps)))
    return sorted(found, key=lambda pair: (pair.network, pair.budget, pair.ahead))


def _interval(
    gaps: Sequence[float], own: Sequence[RunRecord], theirs: Sequence[RunRecord]
) -> tuple[float | None, float | None]:
    """The interval of the mean gap; none for a single gap."""
    if len(gaps) < 2:
        return None, None
    seen = {record.pruned.seen for record in (*own, *theirs)}
    if len(seen) == 1 and all(record.answers for record in (*own, *theirs)):
        right = [[decode_answers(record.answers, record.pruned.seen) for record in side] for side in (own, theirs)]
        return paired_interval(differences(*right))
    spread = float(np.std(gaps, ddof=1)) / np.sqrt(len(gaps))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(gaps) - 1)) * spread
    return float(np.mean(gaps)) - reach, float(np.mean(gaps)) + reach
