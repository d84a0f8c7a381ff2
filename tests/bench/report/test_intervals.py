"""The bootstrap over seeds and examples against a plain loop, and what it must cover."""

import numpy as np
import pytest

from scionet.bench.records.record_files import RecordError
from scionet.bench.report.intervals import differences, paired_interval


def by_hand(ahead: np.ndarray, resamples: int) -> tuple[float, float]:
    rng, means = np.random.default_rng(1), []
    seeds, examples = ahead.shape
    for _ in range(resamples):
        rows, columns = rng.integers(seeds, size=seeds), rng.integers(examples, size=examples)
        means.append(ahead[rows][:, columns].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return low, high


def test_interval_is_that_of_resampling_rows_and_columns() -> None:
    ahead = 100.0 * np.random.default_rng(0).integers(-1, 2, (4, 300))
    assert paired_interval(ahead) == pytest.approx(by_hand(ahead, 4000), abs=0.5)


def test_interval_covers_the_truth_at_least_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(2), 0
    for _ in range(100):
        seeds, examples = rng.normal(0, 1, (5, 1)), rng.normal(0, 5, (1, 200))
        low, high = paired_interval(2 + seeds + examples + rng.normal(0, 5, (5, 200)), 400)
        covered += low <= 2 <= high
    assert covered >= 88  # percentiles of five seeds are somewhat short; Student's t would need no examples at all


def test_a_method_beside_itself_is_not_ahead() -> None:
    right = [np.random.default_rng(seed).random(50) < 0.8 for seed in range(3)]
    assert paired_interval(differences(right, right)) == (0.0, 0.0)
    one = [np.ones(50, bool)] * 3
    assert paired_interval(differences(one, [~r for r in one])) == pytest.approx((100, 100))


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(RecordError, match="an interval needs two seeds or more; given 1"):
        paired_interval(np.zeros((1, 10)))
