"""ThiNet and LASSO on inner products, against their definitions on data."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scionet.selection.elimination import lasso, rescaled, thinet
from scionet.selection.terms import Contributions

SEEDS = st.integers(0, 2**32 - 1)


def data(seed: int, units: int = 7, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Contributions, one column per unit, and a target close to their sum."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(rows, units)) @ (np.eye(units) + 0.5 * rng.normal(size=(units, units)))
    return columns, columns.sum(axis=1) + 0.1 * rng.normal(size=rows)


def products(columns: np.ndarray, target: np.ndarray) -> Contributions:
    return Contributions(columns.T @ columns, columns.T @ target, float(target @ target))


def thinet_by_hand(columns: np.ndarray, n_units: int) -> set[int]:
    left, removed = list(range(columns.shape[1])), np.zeros(len(columns))
    while len(left) > n_units:
        unit = min(left, key=lambda u: float(((removed + columns[:, u]) ** 2).sum()))
        left.remove(unit)
        removed = removed + columns[:, unit]
    return set(left)


@given(seed=SEEDS, n_units=st.integers(1, 7))
def test_thinet_removes_what_the_definition_removes(seed: int, n_units: int) -> None:
    columns, target = data(seed)
    assert set(thinet(products(columns, target), n_units).kept) == thinet_by_hand(columns, n_units)


@given(seed=SEEDS)
def test_thinet_is_the_best_single_removal_and_never_better_than_the_best_set(seed: int) -> None:
    columns, target = data(seed)
    cost = {t: float((columns[:, list(t)].sum(axis=1) ** 2).sum()) for n in (1, 3) for t in combinations(range(7), n)}
    for n in (1, 3):
        removed = tuple(sorted(set(range(7)) - set(thinet(products(columns, target), 7 - n).kept)))
        best = min(value for t, value in cost.items() if len(t) == n)
        assert cost[removed] >= best - 1e-9
        assert n > 1 or cost[removed] == pytest.approx(best)


@given(seed=SEEDS, n_units=st.integers(1, 7), method=st.sampled_from([thinet, lasso]))
def test_multipliers_are_those_of_least_squares_and_the_errors_true(seed: int, n_units: int, method) -> None:
    columns, target = data(seed)
    found = method(products(columns, target), n_units)
    assert len(found.kept) == len(set(found.kept)) == n_units
    assert list(found.kept) == sorted(found.order)
    chosen = columns[:, list(found.kept)]
    residual = target - chosen @ np.array(found.weights)
    assert np.abs(chosen.T @ residual).max() < 1e-5 * float(target @ target)
    assert -found.values[-1] == pytest.approx(float(residual @ residual), rel=1e-5, abs=1e-6)
    assert float(residual @ residual) <= float(((target - chosen.sum(axis=1)) ** 2).sum()) + 1e-9
    assert all(a <= b + 1e-9 for a, b in zip(found.values, found.values[1:], strict=False))


@given(seed=SEEDS, n_units=st.integers(1, 6))
def test_lasso_of_orthogonal_contributions_is_soft_thresholding(seed: int, n_units: int) -> None:
    rng = np.random.default_rng(seed)
    diagonal, cross = rng.uniform(0.5, 2, 6), rng.normal(size=6)
    found = lasso(Contributions(np.diag(diagonal), cross, 100.0), n_units)
    penalty = np.sort(np.abs(cross))[::-1][n_units] if n_units < 6 else 0.0
    shrunk = np.maximum(np.abs(cross) - penalty, 0) / diagonal
    assert set(found.kept) == set(np.argsort(-shrunk)[:n_units].tolist())
    assert np.array(found.weights) == pytest.approx((cross / diagonal)[list(found.kept)], rel=1e-6)


def test_lasso_follows_a_solver_of_its_own() -> None:
    from sklearn.linear_model import Lasso

    columns, target = data(3)
    found = set(lasso(products(columns, target), 4).kept)
    for penalty in np.geomspace(5, 0.1, 2000):
        beta = Lasso(penalty, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(columns, target).coef_
        if (np.abs(beta) > 1e-9).sum() >= 4:
            assert found == set(np.argsort(-np.abs(beta))[:4].tolist())
            return
    raise AssertionError("no penalty leaves four units")


def test_lasso_drops_one_of_two_duplicates_at_no_cost() -> None:
    columns, _ = data(5)
    columns[:, 6] = columns[:, 0]
    target = columns.sum(axis=1)
    for method in (lasso, thinet):
        found = method(products(columns, target), 6)
        assert -found.values[-1] < 1e-6 * float(target @ target) or method is thinet
    assert len({0, 6} & set(lasso(products(columns, target), 6).kept)) == 1


def test_units_without_contribution_get_weight_0() -> None:
    found = rescaled(Contributions(np.zeros((3, 3)), np.zeros(3), 1.0), [2, 0])
    assert found.kept == (0, 2)
    assert found.weights == (0.0, 0.0)
    assert found.values == (-1.0, -1.0)
    assert len(lasso(Contributions(np.zeros((3, 3)), np.zeros(3), 1.0), 2).kept) == 2
