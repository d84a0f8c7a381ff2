"""Average and line search against their definitions on explicit outputs."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.selection_problems import Layer, brute_force, layer

from scionet.errors import CalibrationError, InvalidSetting
from scionet.selection.greedy import greedy, picked
from scionet.selection.quadratic import REFRESH, AverageObjective, Contributions, LineSearchObjective, Term

PROBLEMS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "width": st.integers(1, 3),
        "n_fixed": st.integers(0, 4),
        "asymmetric": st.booleans(),
    }
)
ORDERS = st.lists(st.integers(0, 5), min_size=0, max_size=8)


def two_layers(problem: dict) -> list[Layer]:
    """Two consumers of the same units, with different widths."""
    second = problem | {"seed": problem["seed"] + 1, "width": 4 - problem["width"], "outputs": 3}
    return [layer(**problem), layer(**second)]


def averaged(order: list[int], size: int) -> np.ndarray:
    return size * np.bincount(order, minlength=size) / max(len(order), 1)


@pytest.mark.parametrize("kind", [AverageObjective, LineSearchObjective])
@given(problem=PROBLEMS, order=ORDERS)
@settings(max_examples=40, deadline=None)
def test_value_is_the_explicit_error_and_gains_are_differences_of_values(kind, problem, order) -> None:
    layers = two_layers(problem)
    objective = kind([item.term for item in layers])
    state = objective.start()
    for unit in order:
        state = objective.commit(state, unit)
    expected = -sum(item.error(objective.weights(state)) for item in layers)
    assert objective.value(state) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    gains = objective.gains(state, np.arange(6))
    after = [objective.value(objective.commit(state, unit)) for unit in range(6)]
    np.testing.assert_allclose(gains, np.array(after) - objective.value(state), rtol=1e-9, atol=1e-9)


@given(order=ORDERS)
def test_average_weights_are_multiplicities(order) -> None:
    objective = AverageObjective([layer(0).term])
    state = objective.start()
    for unit in order:
        state = objective.commit(state, unit)
    np.testing.assert_allclose(objective.weights(state), averaged(order, 6), rtol=1e-15)


@pytest.mark.parametrize("repetition", [True, False])
@pytest.mark.parametrize("width", [1, 9])
def test_average_picks_equal_brute_force(repetition, width) -> None:
    layers = [layer(3, size=60, width=width, rows=30, n_fixed=5), layer(4, size=60, rows=20, asymmetric=True)]
    phi = np.concatenate([item.contributions.reshape(60, -1) / np.linalg.norm(item.target) for item in layers], axis=1)
    goal = np.concatenate([item.goal.ravel() / np.linalg.norm(item.target) for item in layers])
    expected = brute_force(60, 50, lambda order: -float(((averaged(order, 60) @ phi - goal) ** 2).sum()), repetition)
    objective = AverageObjective([item.term for item in layers])
    assert list(picked(objective, 50, repetition=repetition).order) == expected


def test_line_search_picks_equal_brute_force() -> None:
    item = layer(5, size=40, rows=30)
    phi, goal = 40 * item.contributions.reshape(40, -1), item.goal.ravel()
    alpha, order = np.zeros(40), []
    for _ in range(50):
        moves = [_explicit_step(alpha, i, phi, goal) for i in range(40)]
        order.append(int(np.argmin([((move @ phi - goal) ** 2).sum() for move in moves])))
        alpha = moves[order[-1]]
    found = picked(LineSearchObjective([item.term]), 50)
    assert list(found.order) == order
    np.testing.assert_allclose(found.weights, 40 * alpha[list(found.kept)], rtol=1e-6)


def _explicit_step(alpha: np.ndarray, unit: int, phi: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Weights after the best clipped step along one unit, from explicit vectors."""
    own = np.eye(len(alpha))[unit]
    if not alpha.any():
        return own
    direction = phi[unit] - alpha @ phi
    if alpha[unit] > 1 - 1e-12:
        return alpha
    step = float((goal - alpha @ phi) @ direction / (direction @ direction))
    step = min(max(step, -alpha[unit] / (1 - alpha[unit])), 1.0)
    return (1 - step) * alpha + step * own


@given(seed=st.integers(0, 10**6), order=st.lists(st.integers(0, 5), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_line_search_takes_the_best_step_and_stays_on_the_simplex(seed, order) -> None:
    item = layer(seed)
    objective = LineSearchObjective([item.term])
    state = objective.commit(objective.start(), order[0])
    for unit in order:
        alpha = objective.weights(state) / 6
        state = objective.commit(state, unit)
        lowest = -alpha[unit] / (1 - alpha[unit]) if alpha[unit] < 1 - 1e-12 else 0.0
        for step in np.linspace(max(lowest, -50), 1, 21):
            moved = (1 - step) * alpha + step * np.eye(6)[unit]
            assert objective.value(state) >= -item.error(6 * moved) - 1e-9
        after = objective.weights(state) / 6
        assert after.min() >= 0
        assert abs(after.sum() - 1) < 1e-10


def test_line_search_removes_a_useless_unit() -> None:
    gram = Contributions(np.array([[1.0, 0.9], [0.9, 1.0]]) / 4, np.array([0.2, 1.0]) / 2, 1.0)
    objective = LineSearchObjective(gram)
    state = objective.commit(objective.commit(objective.start(), 0), 1)
    assert objective.weights(state).tolist() == [0.0, 2.0]


@given(share=st.floats(0.01, 0.99))
def test_line_search_leaves_nothing_of_a_removed_unit(share) -> None:
    phi = np.array([0.0, 1.0, -1.0])
    objective = LineSearchObjective(Contributions(np.outer(phi, phi) / 9, 5 * phi / 3, 25.0))
    alpha = np.array([share, 1 - share, 0.0])
    state = replace(objective.commit(objective.start(), 0), alpha=alpha, with_gram=np.outer(phi, phi) @ alpha)
    assert objective.weights(objective.commit(state, 0))[0] == 0


def test_line_search_removes_drift() -> None:
    item = layer(14)
    objective = LineSearchObjective([item.term])
    state = objective.commit(objective.commit(objective.start(), 0), 1)
    drifted = replace(state, alpha=state.alpha * (1 + 1e-6), with_gram=state.with_gram + 1e-6, n_picks=REFRESH - 1)
    cured = objective.commit(drifted, 2)
    assert cured.n_picks == REFRESH
    assert objective.weights(cured).sum() == pytest.approx(6, rel=1e-14)
    assert objective.value(cured) == pytest.approx(-item.error(objective.weights(cured)), rel=1e-12)


def test_line_search_stays_exact_over_many_steps() -> None:
    item = layer(7, size=50, rows=60)
    objective = LineSearchObjective([item.term])
    found = picked(objective, 1500)
    weights = np.zeros(50)
    weights[list(found.kept)] = found.weights
    assert sum(found.weights) == pytest.approx(50, rel=1e-10)
    assert found.values[-1] == pytest.approx(-item.error(weights), abs=1e-12)
    assert np.all(np.diff(found.values) >= -1e-12)


def test_convolution_gram_equals_explicit_convolution() -> None:
    rng = np.random.default_rng(0)
    images, kernel = rng.standard_normal((3, 5, 8, 8)), rng.standard_normal((4, 5, 3, 3))
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(2, 3))
    unfolded = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 45)
    by_channel = np.zeros((5, 3, 4, 6, 6))
    for dy in range(3):
        for dx in range(3):
            patch = images[:, :, dy : dy + 6, dx : dx + 6]
            by_channel += np.einsum("oi,nihw->inohw", kernel[:, :, dy, dx], patch)
    dense = by_channel.sum(axis=0)
    weight, columns = kernel.reshape(4, 45), np.arange(45).reshape(5, 9)
    target = unfolded @ weight.T
    term = Layer(unfolded, weight, target, columns, np.zeros(0, dtype=int)).term
    found, rows = Contributions.from_terms([term]), len(unfolded)
    flat = by_channel.reshape(5, -1)
    norm = (dense**2).sum()
    np.testing.assert_allclose(found.gram, flat @ flat.T / norm, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.cross, flat @ dense.ravel() / norm, rtol=1e-12, atol=1e-14)
    assert term.yy * rows == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("kind", [AverageObjective, LineSearchObjective])
def test_asymmetric_with_equal_networks_is_symmetric(kind) -> None:
    item = layer(8, size=20, width=2)
    term = item.term
    crossed = Term(term.xx, term.xx @ item.weight.T, term.yy, term.columns, term.fixed, item.weight)
    assert picked(kind([term]), 30).order == picked(kind([crossed]), 30).order


def test_all_units_without_repetition_are_the_dense_layer() -> None:
    item = layer(9, size=30, width=3, n_fixed=4)
    found = greedy(AverageObjective([item.term]), 30)
    assert found.weights == (1.0,) * 30
    assert found.values[-1] == pytest.approx(0, abs=1e-12)
    assert found.kept == tuple(range(30))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_rounding_never_makes_an_error_negative(seed) -> None:
    term = layer(seed).term
    assert max(greedy(AverageObjective([term]), 6).values) <= 0
    assert max(picked(LineSearchObjective([term]), 60).values) <= 0


@pytest.mark.parametrize("kind", [AverageObjective, LineSearchObjective])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_permuting_units_permutes_picks(kind, seed) -> None:
    item = layer(seed, size=12, width=2, n_fixed=1)
    order = np.random.default_rng(seed).permutation(12)
    permuted = Layer(item.x, item.weight, item.target, item.columns[order], item.fixed)
    found, moved = picked(kind([item.term]), 12), picked(kind([permuted.term]), 12)
    assert [int(order[i]) for i in moved.order] == list(found.order)


@pytest.mark.parametrize("kind", [AverageObjective, LineSearchObjective])
def test_duplicates_tie_to_the_lowest_index(kind) -> None:
    item = layer(10, size=20)
    twice = Layer(
        np.hstack([item.x, item.x]),
        np.hstack([item.weight, item.weight]) / 2,
        item.target,
        np.vstack([item.columns, item.columns + 20]),
        item.fixed,
    )
    found = picked(kind([twice.term]), 40)
    assert max(found.order) < 20
    assert found.order == picked(kind([twice.term]), 40).order


@pytest.mark.parametrize("kind", [AverageObjective, LineSearchObjective])
def test_dead_units_and_a_dead_target_are_no_errors(kind) -> None:
    item = layer(11)
    x = item.x.copy()
    x[:, item.columns[2]] = 0
    dead_unit = Layer(x, item.weight, x @ item.weight.T, item.columns, item.fixed)
    assert np.all(np.isfinite(greedy(kind([dead_unit.term]), 6).values))
    dead_target = Layer(x, item.weight, 0 * item.target, item.columns, item.fixed)
    assert greedy(kind([dead_target.term]), 1).order == (2,)


def test_terms_are_checked() -> None:
    term = layer(0).term
    bad: list[dict[str, Any]] = [
        {"xx": term.xx[1:]},
        {"xy": term.xy.astype(np.float32)},
        {"columns": np.zeros((6, 1), dtype=int)},
        {"fixed": np.array([6])},
        {"fixed": np.array([-1])},
    ]
    for change in bad:
        with pytest.raises(InvalidSetting):
            replace(term, **change)
    with pytest.raises(CalibrationError, match="NaN"):
        replace(term, yy=float("nan"))
    with pytest.raises(InvalidSetting, match="same units"):
        AverageObjective([term, layer(0, size=7).term])
    with pytest.raises(InvalidSetting, match="one or more"):
        LineSearchObjective([])


@pytest.mark.slow
def test_a_thousand_times_faster_than_a_forward_pass_for_each_candidate() -> None:
    item = layer(12, size=256, outputs=256, rows=600)
    times, orders = [], []
    for _ in range(3):
        start = time.perf_counter()
        orders.append(greedy(AverageObjective([item.term]), 128).order)
        times.append(time.perf_counter() - start)
    counts, order, start = np.zeros(256), [], time.perf_counter()
    for n in (1, 2):
        errors = [_forward(item, 256 * (counts + np.eye(256)[i]) / n) for i in range(256) if i not in order]
        order.append([i for i in range(256) if i not in order][int(np.argmin(errors))])
        counts[order[-1]] += 1
    slow = (time.perf_counter() - start) / sum(256 - n for n in range(2)) * sum(256 - n for n in range(128))
    assert list(orders[0][:2]) == order
    assert slow > 1000 * min(times)


def _forward(item: Layer, weights: np.ndarray) -> float:
    """Evaluate one candidate by a forward pass of the layer."""
    gates = np.zeros(item.x.shape[1])
    gates[item.columns[:, 0]] = weights
    return float((((item.x * gates) @ item.weight.T - item.target) ** 2).sum())
