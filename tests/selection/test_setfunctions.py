"""Set functions against their definitions, and greedy against the optimum."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scionet.errors import InvalidSetting
from scionet.selection.greedy import greedy, replay
from scionet.selection.objective import Fact
from scionet.selection.setfunctions import Coverage, FacilityLocation, Modular, RSquared

SEEDS = st.integers(0, 10**6)
ORDERS = st.lists(st.integers(0, 5), max_size=6)


def r_squared(x: np.ndarray, y: np.ndarray, chosen: set[int]) -> float:
    design = np.column_stack([np.ones(len(x)), x[:, sorted(chosen)]])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum())


def functions(seed: int) -> list[tuple[Any, Any]]:
    """Each objective, and its definition as a function of a set of units."""
    rng = np.random.default_rng(seed)
    worth, similarity, covers = rng.random(6), rng.standard_normal((6, 9)), rng.random((6, 12)) < 0.3
    items, x, y = rng.random(12), rng.standard_normal((20, 6)), rng.standard_normal(20) + 3
    return [
        (Modular(worth), lambda s: worth[sorted(s)].sum()),
        (Coverage(covers, items), lambda s: items[covers[sorted(s)].any(axis=0)].sum()),
        (FacilityLocation(similarity), lambda s: np.maximum(similarity[sorted(s)].max(axis=0, initial=0), 0).sum()),
        (RSquared(x, y), lambda s: r_squared(x, y, s)),
    ]


@given(seed=SEEDS, order=ORDERS)
@settings(max_examples=40, deadline=None)
def test_values_gains_and_weights_follow_the_definition(seed, order) -> None:
    for objective, definition in functions(seed):
        state = objective.start()
        for unit in order:
            state = objective.commit(state, unit)
        before = definition(set(order))
        assert objective.value(state) == pytest.approx(before, abs=1e-9)
        after = [definition({*order, unit}) for unit in range(6)]
        np.testing.assert_allclose(objective.gains(state, np.arange(6)), np.array(after) - before, atol=1e-9)
        assert objective.weights(state).tolist() == [float(i in order) for i in range(6)]


@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_declared_facts_are_true(seed) -> None:
    small, large = {0, 1}, {0, 1, 2, 3}
    for objective, definition in functions(seed):
        if Fact.MONOTONE in objective.facts:
            assert definition(large) >= definition(small) - 1e-12
        if Fact.SUBMODULAR in objective.facts:
            for unit in (4, 5):
                gain_late = definition(large | {unit}) - definition(large)
                assert definition(small | {unit}) - definition(small) >= gain_late - 1e-12


def test_facts_depend_on_the_weights() -> None:
    assert Fact.MONOTONE in Modular(np.array([0.0, 1.0])).facts
    assert Fact.MONOTONE not in Modular(np.array([-1.0, 1.0])).facts
    assert Fact.SUBMODULAR not in functions(0)[3][0].facts


@given(seed=SEEDS, size=st.integers(4, 10), n_units=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_greedy_coverage_is_within_1_minus_1_over_e_of_the_best(seed, size, n_units) -> None:
    rng = np.random.default_rng(seed)
    covers, items = rng.random((size, 15)) < 0.25, rng.random(15)
    objective = Coverage(covers, items)
    best = max(items[covers[list(s)].any(axis=0)].sum() for s in combinations(range(size), n_units))
    assert greedy(objective, n_units).values[-1] >= (1 - 1 / np.e) * best - 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_greedy_r_squared_keeps_the_weakly_submodular_bound(seed) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, 4)) @ rng.standard_normal((4, 10)) + 0.5 * rng.standard_normal((40, 10))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = x[:, :4] @ rng.standard_normal(4) + 0.3 * rng.standard_normal(40)
    gram = x.T @ x / 40
    least = min(np.linalg.eigvalsh(gram[np.ix_(s, s)])[0] for s in combinations(range(10), 6))
    best = max(r_squared(x, y, set(s)) for s in combinations(range(10), 3))
    assert greedy(RSquared(x, y), 3).values[-1] >= (1 - np.exp(-least)) * best


def test_r_squared_of_a_suppressor() -> None:
    """Unit columns a, b, c; b is useless alone and completes a."""
    correlation = np.array([[1, 1 / np.sqrt(2), 0.45 / np.sqrt(2)], [1 / np.sqrt(2), 1, 0], [0.45 / np.sqrt(2), 0, 1]])
    with_y = np.array([1 / np.sqrt(2), 0, 0.45])
    joint = np.block([[correlation, with_y[:, None]], [with_y, np.ones(1)]])
    values, vectors = np.linalg.eigh(joint)
    samples = np.random.default_rng(0).standard_normal((50, 4))
    white = np.linalg.qr(samples - samples.mean(axis=0))[0]
    data = white @ (vectors * np.sqrt(np.maximum(values, 0))).T
    objective = RSquared(data[:, :3], data[:, 3])
    np.testing.assert_allclose(objective.gains(objective.start(), np.arange(3)), [0.5, 0, 0.2025], atol=1e-12)
    found = greedy(objective, 2)
    assert found.order == (0, 1)
    np.testing.assert_allclose(found.values, [0.5, 1], atol=1e-9)
    assert replay(objective, (0, 2)).values[-1] == pytest.approx(0.556328, abs=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Modular(np.array([1.0, np.nan])),
        lambda: Modular(np.ones((2, 2))),
        lambda: FacilityLocation(np.ones(3)),
        lambda: Coverage(np.ones((2, 3))),  # pyright: ignore[reportArgumentType]
        lambda: Coverage(np.ones((2, 3), dtype=bool), np.array([1.0, -1.0, 0.0])),
        lambda: Coverage(np.ones((2, 3), dtype=bool), np.ones(2)),
        lambda: RSquared(np.eye(4), np.ones(4)),
        lambda: RSquared(np.eye(4), np.arange(3.0)),
    ],
)
def test_bad_input_is_refused(make) -> None:
    with pytest.raises(InvalidSetting):
        make()
