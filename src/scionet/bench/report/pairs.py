"""Two methods on the same network, budget and seeds: by how much one is ahead, with an interval."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scionet.bench.records.record import RunRecord, unpacked
from scionet.bench.report.intervals import CONFIDENCE, differences, paired_interval

Run = tuple[str, str, str]
"""NetworkSource, budget and method."""


@dataclass(frozen=True)
class Pair:
    """How far a method is ahead of another.

    Attributes:
        network: Name of the network.
        budget: The budget as text.
        method: Name of the method.
        other: Name of the other one.
        ahead: Mean difference of the accuracies, percentage points, over the seeds that both have.
        low: Lower end of its interval (confidence 95 %); None for a single seed. Over seeds and test examples
            (`paired_interval`) where the records say which examples were right; else Student's t over seeds.
        high: Upper end.
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
        """Whether the interval excludes no difference."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def pairs(records: Sequence[RunRecord], method: str) -> list[Pair]:
    """The method beside every other one that shares seeds with it, where it is least ahead first."""
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
    """The interval of the mean of the gaps; none for a single one."""
    if len(gaps) < 2:
        return None, None
    seen = {record.pruned.seen for record in (*own, *theirs)}
    if len(seen) == 1 and all(record.answers for record in (*own, *theirs)):
        right = [[unpacked(record.answers, record.pruned.seen) for record in side] for side in (own, theirs)]
        return paired_interval(differences(*right))
    spread = float(np.std(gaps, ddof=1)) / np.sqrt(len(gaps))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(gaps) - 1)) * spread
    return float(np.mean(gaps)) - reach, float(np.mean(gaps)) + reach
