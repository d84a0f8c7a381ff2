"""Least squares against explicit regressions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.selection_problems import Layer, brute_force, layer

from scionet.errors import InvalidSetting
from scionet.selection.greedy import greedy, prefix
from scionet.selection.objective import Fact
from scionet.selection.quadratic import LeastSquaresObjective, refit


@given(
    seed=st.integers(0, 10**6),
    width=st.integers(1, 4),
    n_fixed=st.integers(0, 4),
    asymmetric=st.booleans(),
    ridge=st.sampled_from([0.0, 1e-6, 1e-2]),
    order=st.lists(st.integers(0, 5), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_value_is_the_explicit_residual_and_gains_are_differences(
    seed, width, n_fixed, asymmetric, ridge, order
) -> None:
    layers = [
        layer(seed, width=width, n_fixed=n_fixed, asymmetric=asymmetric),
        layer(seed + 1, width=5 - width, asymmetric=True, outputs=40),
    ]
    objective = LeastSquaresObjective([item.term for item in layers], ridge)
    state = objective.start()
    for unit in order:
        state = objective.commit(state, unit)
    before, gains = objective.value(state), objective.gains(state, np.arange(6))
    assert before == pytest.approx(-sum(item.refit_error(sorted(set(order)), ridge) for item in layers), abs=1e-9)
    for unit in range(6):
        after = -sum(item.refit_error(sorted({*order, unit}), ridge) for item in layers)
        assert gains[unit] == pytest.approx(after - before, abs=1e-9)


@pytest.mark.parametrize("width", [1, 9])
def test_greedy_equals_brute_force(width) -> None:
    layers = [layer(1, size=10, width=width, rows=120, asymmetric=True, n_fixed=7), layer(2, size=10)]
    expected = brute_force(10, 7, lambda order: -sum(item.refit_error(order, 1e-6) for item in layers), False)
    found = greedy(LeastSquaresObjective([item.term for item in layers]), 7)
    assert list(found.order) == expected
    assert found.weights == (1.0,) * 7


def test_the_whole_path_is_nested_and_monotone() -> None:
    objective = LeastSquaresObjective([layer(3, size=40, width=4, rows=300, asymmetric=True).term])
    path = greedy(objective, 40)
    assert np.all(np.diff(path.values) >= -1e-12)
    for n_units in (0, 1, 17, 40):
        alone, cut = greedy(objective, n_units), prefix(objective, path, n_units)
        assert (cut.kept, cut.order, cut.weights) == (alone.kept, alone.order, alone.weights)
        np.testing.assert_allclose(cut.values, alone.values, rtol=1e-12)


def test_the_dense_set_imitates_the_dense_layer() -> None:
    objective = LeastSquaresObjective([layer(4, size=30, width=2, rows=200, n_fixed=3).term], ridge=1e-9)
    assert greedy(objective, 30).values[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
@pytest.mark.parametrize("width", [1, 3])
def test_spanned_and_dead_units_gain_nothing(ridge, width) -> None:
    item = layer(5, size=8, width=width, rows=60, asymmetric=True)
    x = item.x.copy()
    x[:, item.columns[5]] = x[:, item.columns[1]]
    x[:, item.columns[6]] = 0
    x[:, item.columns[7]] = x[:, item.columns[2]] + x[:, item.columns[3]]
    deficient = Layer(x, item.weight, item.target, item.columns, item.fixed)
    objective = LeastSquaresObjective([deficient.term], ridge)
    state = objective.start()
    for unit in (1, 2, 3):
        state = objective.commit(state, unit)
    gains = objective.gains(state, np.arange(8))
    np.testing.assert_allclose(gains[[1, 2, 3, 5, 6, 7]], 0, atol=1e-5 if ridge else 1e-12)
    assert gains[[0, 4]].min() > 1e-4
    before = objective.value(state)
    for unit in (5, 6, 7, 1):
        state = objective.commit(state, unit)
    assert objective.value(state) == pytest.approx(before, abs=1e-5 if ridge else 1e-12)
    assert objective.gains(state, np.array([0, 4])) == pytest.approx(gains[[0, 4]], abs=1e-5 if ridge else 1e-10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [1, 3])
def test_spanned_units_gain_nothing_even_with_noisy_moments(width, seed) -> None:
    item = layer(seed, size=6, width=width, rows=60, asymmetric=True)
    rng = np.random.default_rng(seed)
    mixed = item.x @ rng.standard_normal((6 * width, 6 * width))
    x, weight = np.hstack([item.x, mixed]), np.hstack([item.weight] * 2)
    twice = Layer(x, weight, item.target, np.arange(12 * width).reshape(12, width), item.fixed)
    noise = rng.standard_normal(twice.term.xy.shape)
    objective = LeastSquaresObjective([replace(twice.term, xy=twice.term.xy + 1e-5 * noise)], ridge=0.0)
    path = greedy(objective, 12)
    assert np.all(np.diff(path.values[:6]) > 1e-9)
    np.testing.assert_allclose(path.values[6:], path.values[5], rtol=0, atol=1e-12)
    state = objective.start()
    for unit in path.order[:6]:
        state = objective.commit(state, unit)
    assert not objective.gains(state, np.arange(12)).any()


@given(seed=st.integers(0, 10**6), ridge=st.sampled_from([0.0, 1e-6]))
@settings(max_examples=25, deadline=None)
def test_fewer_samples_than_inputs(seed, ridge) -> None:
    item = layer(seed, size=10, width=3, rows=12, n_fixed=3, asymmetric=True)
    path = greedy(LeastSquaresObjective([item.term], ridge), 10)
    assert np.all(np.diff(path.values) >= -1e-9)
    for n_units in (1, 5, 10):
        assert path.values[n_units - 1] == pytest.approx(-item.refit_error(path.order[:n_units], ridge), abs=1e-6)


def test_duplicates_tie_to_the_lowest_index() -> None:
    item = layer(6, size=12, width=2, rows=100, asymmetric=True)
    twice = Layer(
        np.hstack([item.x, item.x]),
        np.hstack([item.weight, item.weight]) / 2,
        item.target,
        np.vstack([item.columns, item.columns + 24]),
        item.fixed,
    )
    assert sorted(greedy(LeastSquaresObjective([twice.term]), 12).order) == list(range(12))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_permuting_units_permutes_picks(seed) -> None:
    item = layer(seed, size=10, width=3, rows=90, n_fixed=2, asymmetric=True)
    order = np.random.default_rng(seed).permutation(10)
    permuted = Layer(item.x, item.weight, item.target, item.columns[order], item.fixed)
    found, moved = greedy(LeastSquaresObjective([item.term]), 10), greedy(LeastSquaresObjective([permuted.term]), 10)
    assert [int(order[i]) for i in moved.order] == list(found.order)


def test_refit_leaves_a_residual_orthogonal_to_its_inputs() -> None:
    item = layer(7, size=20, width=3, rows=300)
    columns = item.columns[[1, 4, 7, 15]].ravel()
    weight = refit(item.term.xx, item.term.xy, columns, ridge=0.0)
    residual = item.target - item.x @ weight.T
    assert np.abs(item.x[:, columns].T @ residual).max() < 1e-10 * np.abs(item.x.T @ item.target).max()
    assert not weight[:, np.setdiff1d(np.arange(60), columns)].any()


@given(seed=st.integers(0, 10**6), n_kept=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_refit_is_never_worse_than_rescaled_or_plain_units(seed, n_kept) -> None:
    item = layer(seed, size=12, width=2, rows=80)
    kept = np.random.default_rng(seed).choice(12, n_kept, replace=False)
    indicator = np.isin(np.arange(12), kept).astype(float)
    weight = refit(item.term.xx, item.term.xy, item.columns[kept].ravel())
    error = ((item.target - item.x @ weight.T) ** 2).sum() / (item.target**2).sum()
    assert error <= min(item.error(indicator), item.error(indicator * 12 / n_kept)) + 1e-4
    assert error <= item.refit_error(kept.tolist(), 1e-6) + 1e-9


def test_refit_is_the_ridge_solution() -> None:
    item = layer(8, size=10, width=2, rows=50)
    xx, columns = item.term.xx, np.sort(item.columns[[0, 3, 5]].ravel())
    damped = xx[np.ix_(columns, columns)] + 1e-3 * np.trace(xx) / len(xx) * np.eye(6)
    expected = np.linalg.solve(damped, item.term.xy[columns]).T
    np.testing.assert_allclose(refit(xx, item.term.xy, columns, 1e-3)[:, columns], expected, rtol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 1e-12, 1e-6])
def test_refit_of_dependent_inputs_reaches_the_best_residual(ridge) -> None:
    item = layer(9, size=40, width=2, rows=30, asymmetric=True)
    columns = item.columns[:25].ravel()
    weight = refit(item.term.xx, item.term.xy, columns, ridge)
    error = ((item.target - item.x @ weight.T) ** 2).sum() / (item.target**2).sum()
    assert error == pytest.approx(0, abs=1e-6)
    assert np.abs(weight).max() < 1e4


def test_refit_of_nothing_is_nothing() -> None:
    item = layer(0)
    assert not refit(item.term.xx, item.term.xy, np.zeros(0, dtype=int)).any()
    assert not refit(0 * item.term.xx, 0 * item.term.xy, np.arange(6)).any()


def test_a_negative_ridge_is_refused() -> None:
    term = layer(0).term
    with pytest.raises(InvalidSetting, match="ridge"):
        LeastSquaresObjective([term], ridge=-1).start()
    with pytest.raises(InvalidSetting, match="ridge"):
        refit(term.xx, term.xy, np.arange(3), ridge=float("nan"))


def test_facts() -> None:
    assert LeastSquaresObjective([layer(0).term]).facts == {Fact.MONOTONE, Fact.WEAKLY_SUBMODULAR}
