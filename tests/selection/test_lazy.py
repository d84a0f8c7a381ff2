"""Lazy selection: the same picks as exact selection with fewer evaluations; refused where it would be wrong."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.selection_problems import suppressor

from scionet.errors import InvalidSetting
from scionet.selection.greedy import greedy
from scionet.selection.objective import Fact, Objective
from scionet.selection.policies import Lazy, StochasticPolicy
from scionet.selection.quadratic import LeastSquaresObjective
from scionet.selection.setfunctions import Coverage, FacilityLocation, Modular, RSquared


class Counted(Objective):
    """Counts evaluated candidates."""

    def __init__(self, inner: Objective, claims: frozenset[Fact] | None = None) -> None:
        self.inner, self.size, self.evaluations = inner, inner.size, 0
        self.facts = inner.facts if claims is None else claims

    def start(self) -> Any:
        return self.inner.start()

    def gains(self, state: Any, candidates: Any) -> Any:
        self.evaluations += len(candidates)
        return self.inner.gains(state, candidates)

    def commit(self, state: Any, unit: int) -> Any:
        return self.inner.commit(state, unit)

    def value(self, state: Any) -> float:
        return self.inner.value(state)

    def weights(self, state: Any) -> Any:
        return self.inner.weights(state)


def random_coverage(seed: int, size: int = 200) -> Coverage:
    rng = np.random.default_rng(seed)
    return Coverage(rng.random((size, 400)) < 0.03, rng.random(400))


def test_stale_gains_miss_a_suppressor_so_lazy_is_refused() -> None:
    objective = Counted(LeastSquaresObjective([suppressor()], ridge=0.0))
    found = greedy(objective, 2)
    assert (set(found.kept), objective.evaluations) == ({0, 1}, 5)
    assert 1 + found.values[-1] == pytest.approx(1.0)
    with pytest.raises(
        InvalidSetting, match=r"submodular \(the gain of a unit never grows.*Use the exact or the stochastic policy"
    ):
        greedy(objective, 2, policy=Lazy())
    liar = Counted(objective.inner, frozenset(Fact))
    trapped = greedy(liar, 2, policy=Lazy())
    assert (set(trapped.kept), liar.evaluations) == ({0, 2}, 4)
    assert 1 + trapped.values[-1] == pytest.approx(0.556328, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_lazy_makes_the_same_picks_with_an_eighth_of_the_evaluations(seed) -> None:
    exact, lazy = Counted(random_coverage(seed)), Counted(random_coverage(seed))
    assert greedy(exact, 15) == greedy(lazy, 15, policy=Lazy())
    assert exact.evaluations == sum(200 - n for n in range(15)) == 2895
    assert 200 < lazy.evaluations < 420
    some = Counted(random_coverage(seed))
    sampled = greedy(some, 15, policy=StochasticPolicy(0.1), rng=np.random.default_rng(seed))
    assert some.evaluations == 15 * 31  # ceil(200 / 15 * ln 10)
    assert sampled.values[-1] > 0.9 * greedy(exact, 15).values[-1]


@given(seed=st.integers(0, 10**6), n_units=st.integers(0, 12), ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_lazy_is_exact_on_submodular_functions_with_ties(seed, n_units, ties) -> None:
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 4, (12, 9)).astype(float) if ties else rng.standard_normal((12, 9))
    for objective in (
        FacilityLocation(levels),
        Coverage(levels > 1.0),
        Modular(rng.integers(0, 3, 12).astype(float) if ties else rng.random(12)),
    ):
        assert greedy(objective, n_units, policy=Lazy()) == greedy(objective, n_units)


def test_objectives_without_the_fact_are_refused_by_name() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidSetting, match="Lazy relies on facts that RSquared does not have"):
        greedy(RSquared(rng.random((9, 4)), rng.random(9)), 2, policy=Lazy())
