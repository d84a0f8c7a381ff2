"""The least of many sums, against adding them all up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scionet.methods.greedy.racing import racing
from scionet.selection.policies import best
from scionet.typing import FloatArray, IntArray


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6))
def test_the_least_sums_are_complete_and_the_others_above_them(n_sums, n_terms, n_together, seed) -> None:
    rng = np.random.default_rng(seed)
    terms = rng.integers(0, 4, (n_sums, n_terms)) * rng.choice([1.0, 1e-3])  # with many ties
    asked = np.zeros_like(terms)

    def run(who: IntArray, which: IntArray) -> FloatArray:
        assert len(who) <= n_together
        assert len(set(who.tolist())) == len(who)
        asked[who, which] += 1
        return terms[who, which]

    sums, complete = racing(n_sums, n_terms, n_together, run)
    totals = terms.sum(1)
    assert asked.max() == 1  # no term twice
    np.testing.assert_allclose(sums, (terms * asked).sum(1))
    np.testing.assert_array_equal(complete, asked.all(1))
    assert complete[totals == totals.min()].all()
    assert (sums[~complete] > totals.min()).all()
    assert best(np.arange(n_sums), -sums) == best(np.arange(n_sums), -totals)


def test_little_is_added_beyond_the_least_sum() -> None:
    terms = np.random.default_rng(0).exponential(size=(50, 40))
    terms[17] /= 3
    asked = 0

    def run(who: IntArray, which: IntArray) -> FloatArray:
        nonlocal asked
        asked += len(who)
        return terms[who, which]

    racing(50, 40, 1, run)
    reached = (np.cumsum(terms, 1) <= terms[17].sum()).sum(1) + 1  # until above the least sum
    assert asked <= np.minimum(reached, 40).sum()


def test_a_sum_that_is_not_a_number_is_not_hidden() -> None:
    terms = np.array([[1.0, np.nan], [1.0, 1.0], [0.0, 3.0]])
    sums, complete = racing(3, 2, 2, lambda who, which: terms[who, which])
    assert np.isnan(sums[0])
    assert complete.all()
