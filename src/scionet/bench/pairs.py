"""Two methods on the same network, budget and seeds: by how much one is ahead, with an interval."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scionet.bench.record import RunRecord

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Pair:
    """How far a method is ahead of another.

    Attributes:
        network: Name of the network.
        budget: The budget as text.
        method: Name of the method.
        other: Name of the other one.
        ahead: Mean difference of the accuracies, percentage points, over the seeds that both have.
        low: Lower end of its interval (Student's t, confidence 95 %); None for a single seed.
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
    accuracy: defaultdict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for record in records:
        spec = record.spec
        accuracy[spec.network, spec.budget, spec.method][spec.seed] = 100 * record.pruned.accuracy
    found = []
    for (network, budget, other), theirs in accuracy.items():
        own = accuracy.get((network, budget, method), {})
        shared = sorted(own.keys() & theirs.keys())
        if other != method and shared:
            gaps = [own[seed] - theirs[seed] for seed in shared]
            found.append(Pair(network, budget, method, other, float(np.mean(gaps)), *_interval(gaps), len(gaps)))
    return sorted(found, key=lambda pair: (pair.network, pair.budget, pair.ahead))


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Student's interval of a mean; none for a single value."""
    if len(values) < 2:
        return None, None
    spread = float(np.std(values, ddof=1)) / np.sqrt(len(values))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread
    return float(np.mean(values)) - reach, float(np.mean(values)) + reach
