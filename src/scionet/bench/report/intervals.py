"""Confidence intervals of the difference between two methods, over seeds and test examples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scionet.bench.records.record_files import RecordError

CONFIDENCE = 0.95
RESAMPLES = 4000
_CHUNK = 200


def paired_interval(
    ahead: NDArray[np.float64], resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Bootstrap interval of the mean of paired differences; seeds and test examples are resampled independently.

    With few seeds, resampling only seeds gives intervals that are far too short. Test examples, where given, are
    resampled too, so that they contribute to the uncertainty. The intervals of this bootstrap tend to be too wide
    (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007).

    Args:
        ahead: Lead of one method, shape ``(seeds, examples)``; ``(seeds, 1)`` if only totals are known.
        resamples: Number of bootstrap samples.
        confidence: Confidence level of the percentile interval.

    Returns:
        Lower and upper end.

    Raises:
        RecordError: If there are fewer than two seeds.
    """
    seeds = len(ahead)
    if seeds < 2:
        raise RecordError(f"an interval needs two seeds or more; given {seeds}. Run more seeds")
    rng = np.random.default_rng(0)
    kinds, alike = np.unique(ahead, axis=1, return_counts=True)
    chunks = (min(_CHUNK, resamples - n) for n in range(0, resamples, _CHUNK))
    means = np.concatenate([_means(kinds, alike, count, rng) for count in chunks])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _means(
    kinds: NDArray[np.float64], alike: NDArray[np.intp], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Means of `count` bootstrap samples. Multiplicities are multinomial; equal examples are resampled together.

    Args:
        kinds: Distinct examples, shape ``(seeds, kinds)``.
        alike: Number of examples of each kind.
        count: Number of samples.
        rng: Random generator.
    """
    seeds, examples = len(kinds), alike.sum()
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), count) / seeds
    columns = rng.multinomial(examples, alike / examples, count) / examples
    return ((rows @ kinds) * columns).sum(axis=1)


def differences(own: Sequence[NDArray[np.bool_]], other: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """The lead of one method on every test example, in percentage points, shape ``(seeds, examples)``."""
    return 100 * (np.stack(own).astype(np.float64) - np.stack(other))
