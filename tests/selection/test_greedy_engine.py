"""The greedy engine: policies, repetition, stop rules, ties, replay."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.selection_problems import layer

from scionet.errors import CalibrationError, InvalidSetting
from scionet.selection.greedy import Selection, Status, greedy, picked, prefix, replay
from scionet.selection.policies import ExactPolicy, StochasticPolicy
from scionet.selection.quadratic import AverageObjective, Contributions, LineSearchObjective
from scionet.selection.setfunctions import Coverage, Modular


class Watched(Modular):
    """Records the number of candidates of each evaluation."""

    def __init__(self, weights) -> None:
        super().__init__(weights)
        self.asked = []

    def gains(self, state: Any, candidates: Any) -> Any:
        assert np.all(np.diff(candidates) > 0)
        self.asked.append(len(candidates))
        return super().gains(state, candidates)


def coverage(seed: int, size: int = 40) -> Coverage:
    rng = np.random.default_rng(seed)
    return Coverage(rng.random((size, 200)) < 0.05, rng.random(200))


def test_the_largest_gain_is_picked_and_ties_go_to_the_lowest_index() -> None:
    found = greedy(Modular(np.array([1.0, 3.0, 2.0, 3.0, 2.0])), 4)
    assert found.order == (1, 3, 2, 4)
    assert found.kept == (1, 2, 3, 4)
    assert found.values == (3.0, 6.0, 8.0, 10.0)
    assert found.status is Status.REACHED


def test_equal_units_tie_despite_rounding() -> None:
    assert greedy(Modular(np.array([1.0, 2.0, 2.0 + 1e-14])), 1).order == (1,)
    assert greedy(Modular(np.array([1.0, 2.0, 2.0 + 1e-6])), 1).order == (2,)


@given(seed=st.integers(0, 10**6), n_units=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_prefixes_of_a_path_are_the_paths_of_smaller_sizes(seed, n_units) -> None:
    for objective in (coverage(seed), AverageObjective([layer(seed, size=20).term])):
        path = greedy(objective, 20)
        alone, cut = greedy(objective, n_units), prefix(objective, path, n_units)
        assert alone.order == path.order[:n_units]
        assert alone.values == path.values[:n_units]
        assert (cut.kept, cut.order, cut.values, cut.weights) == (alone.kept, alone.order, alone.values, alone.weights)


def test_prefix_with_repetition_counts_distinct_units() -> None:
    objective = AverageObjective([layer(1, size=30, rows=100).term])
    path = greedy(objective, 20, repetition=True)
    assert len(path.order) > 20
    cut, alone = prefix(objective, path, 9), greedy(objective, 9, repetition=True)
    assert (len(cut.kept), cut.order, cut.weights) == (9, alone.order, alone.weights)


def test_prefix_longer_than_the_path_is_refused() -> None:
    objective = coverage(0)
    with pytest.raises(InvalidSetting, match="0 to 3"):
        prefix(objective, greedy(objective, 3), 4)


@pytest.mark.parametrize("policy", [StochasticPolicy(sample_size=40), StochasticPolicy(epsilon=1e-9), ExactPolicy()])
def test_a_sample_of_all_candidates_is_exact(policy) -> None:
    rng = np.random.default_rng(0)
    assert greedy(coverage(3), 15, policy=policy, rng=rng) == greedy(coverage(3), 15)


def test_random_candidates_are_seeded() -> None:
    def run(seed: int) -> Selection:
        return greedy(coverage(4), 15, policy=StochasticPolicy(), rng=np.random.default_rng(seed))

    assert run(1) == run(1)
    assert run(1).order != run(2).order


def test_random_candidates_are_as_many_as_promised() -> None:
    watched = Watched(np.random.default_rng(0).random(100))
    greedy(watched, 10, policy=StochasticPolicy(epsilon=0.1), rng=np.random.default_rng(0))
    assert watched.asked == [math.ceil(10 * math.log(10))] * 10
    watched.asked.clear()
    greedy(watched, 100, policy=StochasticPolicy(sample_size=50), rng=np.random.default_rng(0))
    assert watched.asked == [min(50, left) for left in range(100, 0, -1)]


def test_random_candidates_keep_most_of_the_value() -> None:
    def value(**settings: Any) -> float:
        return greedy(coverage(5, 100), 10, **settings).values[-1]

    found = [value(policy=StochasticPolicy(), rng=np.random.default_rng(seed)) for seed in range(10)]
    assert np.mean(found) >= 0.9 * value()


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_epsilon_outside_0_1_is_refused(epsilon) -> None:
    with pytest.raises(InvalidSetting, match="epsilon"):
        StochasticPolicy(epsilon=epsilon)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="sample_size"):
        StochasticPolicy(sample_size=0)
    with pytest.raises(InvalidSetting, match="rng"):
        greedy(coverage(0), 3, policy=StochasticPolicy())
    with pytest.raises(InvalidSetting, match="n_units"):
        greedy(coverage(0), -1)
    with pytest.raises(InvalidSetting, match="patience"):
        greedy(coverage(0), 3, patience_per_unit=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_gains_raise_an_error_that_names_the_unit(bad) -> None:
    class Broken(Modular):
        def gains(self, state: Any, candidates: Any) -> Any:
            return np.where(candidates == 2, bad, 1.0)

    with pytest.raises(CalibrationError, match="unit 2"):
        greedy(Broken(np.ones(4)), 2)


def test_selection_ends_when_the_stop_rule_is_satisfied() -> None:
    found = greedy(Modular(np.array([1.0, 3.0, 2.0])), 3, enough=lambda value: value >= 5)
    assert (found.order, found.status) == ((1, 2), Status.ENOUGH)


def test_zero_units_and_more_units_than_exist() -> None:
    assert greedy(coverage(0), 0).kept == ()
    found = greedy(coverage(0), 41)
    assert (len(found.kept), found.status) == (40, Status.EXHAUSTED)


def hull_with_inner_points() -> Contributions:
    """Four corners of a square, followed by six interior points."""
    rng = np.random.default_rng(0)
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    phi = np.vstack([corners, 1e-3 * rng.standard_normal((6, 2)) + [0.5, 0.0]])
    target = np.array([-0.3, 0.4])
    return Contributions(phi @ phi.T / 100, phi @ target / 10, float(target @ target))


def test_repetition_saturates_and_says_so() -> None:
    rng = np.random.default_rng(0)
    a, b, offset = 2 * rng.standard_normal((10, 100)), rng.uniform(0.5, 2, 100), 0.5 * rng.standard_normal(100)
    phi = (b * np.tanh(rng.standard_normal((3, 10)) @ a / np.sqrt(10) + offset)).T
    objective = AverageObjective(
        Contributions(phi @ phi.T / 100**2, phi @ phi.mean(0) / 100, float((phi.mean(0) ** 2).sum()))
    )
    found = greedy(objective, 60, repetition=True)
    assert (len(found.kept), found.status) == (60, Status.SATURATED)
    new = [n for n, unit in enumerate(found.order) if unit not in found.order[:n]]
    before = max(n for n in range(len(found.order)) if n not in new) + 1
    assert before == min(20 * 60, max(n for n in new if n < before) + 1 + 10 * 60)
    assert found.order[:before] == picked(objective, before).order
    assert len(found.order) - before == 60 - len(set(found.order[:before])) > 1


@pytest.mark.parametrize("kind", [AverageObjective, LineSearchObjective])
def test_repetition_ends_where_nothing_new_helps(kind) -> None:
    found = greedy(kind(hull_with_inner_points()), 10, repetition=True)
    assert found.status is Status.SATURATED
    assert len(found.order) <= 20 * 10 + 10


def test_caps_on_repetition_are_kept() -> None:
    objective = AverageObjective(hull_with_inner_points())
    capped = greedy(objective, 10, repetition=True, max_picks_per_unit=1, patience_per_unit=10)
    assert len(capped.order) <= 20
    impatient = greedy(objective, 10, repetition=True, patience_per_unit=1)
    assert len(impatient.order) <= 10 * 10 + 10
    assert {capped.status, impatient.status} == {Status.SATURATED}


@pytest.mark.parametrize("patience", [1, 2])
def test_repeats_end_with_the_last_pick_of_the_patience(patience: int) -> None:
    found = greedy(AverageObjective(hull_with_inner_points()), 10, repetition=True, patience_per_unit=patience)
    new = [n for n, unit in enumerate(found.order) if unit not in found.order[:n]]
    repeats = [n for n in range(len(found.order)) if n not in new]
    last_growth = max(n for n in new if n < repeats[-1]) + 1
    assert repeats[-1] + 1 == last_growth + patience * 10 < 20 * 10


@pytest.mark.parametrize("kind", [AverageObjective, LineSearchObjective])
def test_among_some_units_only_these_are_picked_also_once_repeats_are_forbidden(kind) -> None:
    among = np.array([0, 1, 2, 3, 7, 9])
    found = greedy(kind(hull_with_inner_points()), 10, among=among, repetition=True)
    assert (set(found.order) <= set(among.tolist()), found.status) == (True, Status.SATURATED)
    assert {7, 9} <= set(found.order)


def test_without_repetition_no_unit_is_picked_twice() -> None:
    for kind in (AverageObjective, LineSearchObjective):
        order = greedy(kind([layer(2, size=30).term]), 30).order
        assert len(set(order)) == len(order)


def test_with_repetition_weights_are_n_times_the_share_of_picks() -> None:
    found = picked(AverageObjective([layer(3, size=30, rows=100).term]), 50)
    share = np.bincount(found.order, minlength=30) / 50
    np.testing.assert_allclose(found.weights, 30 * share[list(found.kept)])
    assert sum(found.weights) == pytest.approx(30)
    assert len(set(found.order)) < 50


@pytest.mark.parametrize("kind", [AverageObjective, LineSearchObjective])
def test_replay_gives_the_same_selection(kind) -> None:
    objective = kind([layer(4, size=20).term])
    path = greedy(objective, 12, repetition=True)
    again = replay(objective, path.order)
    assert (again.kept, again.values, again.weights) == (path.kept, path.values, path.weights)
    assert again.status is Status.REPLAYED
    assert len(replay(objective, path.order, 5).kept) == 5
