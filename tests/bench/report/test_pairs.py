"""Paired differences against textbook formulas."""

import numpy as np
import pytest
from scipy import stats
from support.made_up_records import record

from scionet.bench.report.pairs import pairs


def test_difference_and_interval_are_those_of_a_paired_t_test() -> None:
    ours, theirs = (300, 310, 305), (290, 306, 288)
    records = [record("forward", seed=s, correct=n) for s, n in enumerate(ours)]
    records += [record("l1", seed=s, correct=n) for s, n in enumerate(theirs)]
    records += [record("random", seed=2, correct=100)]
    random, l1 = sorted(pairs(records, "forward"), key=lambda pair: pair.other == "l1")
    gaps = (np.array(ours) - theirs) / 360 * 100
    tested = stats.ttest_rel(np.array(ours) / 3.6, np.array(theirs) / 3.6).confidence_interval(0.95)
    assert l1.ahead == pytest.approx(gaps.mean())
    assert (l1.low, l1.high) == (pytest.approx(tested.low), pytest.approx(tested.high))
    assert (l1.runs, l1.certain) == (3, False)
    assert random.ahead == pytest.approx((305 - 100) / 3.6)
    assert (random.low, random.high, random.runs, random.certain) == (None, None, 1, False)


def test_only_shared_seeds_budgets_and_networks_count() -> None:
    records = [record("forward", seed=0, correct=300), record("l1", seed=1, correct=200)]
    records += [record("l1", seed=0, budget="macs<=30%"), record("l1", seed=0, network="other")]
    assert pairs(records, "forward") == []


def test_where_the_method_is_least_ahead_comes_first_and_equal_gaps_are_certain() -> None:
    records = [record("forward", seed=s, correct=300 + s) for s in (0, 1)]
    records += [record("l1", seed=s, correct=290 + s) for s in (0, 1)]
    records += [record("random", seed=s, correct=310 - s) for s in (0, 1)]
    first, second = pairs(records, "forward")
    assert (first.other, second.other) == ("random", "l1")
    assert first.ahead < 0 < second.ahead
    assert second.certain
    assert not first.certain
