"""The logistic likelihood against scikit-learn's regression."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from scionet.errors import InvalidSetting
from scionet.selection.greedy import greedy
from scionet.selection.logistic import LogisticLikelihood

RIDGE = 1e-2


def problem(classes: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = 3 * rng.standard_normal((80, 6)) + 5
    scores = (x - 5) @ rng.standard_normal((6, classes)) / 3 + rng.gumbel(size=(80, classes))
    return x, scores.argmax(axis=1)


def share(x, y, units) -> float:
    """The definition for two classes, with scikit-learn's solver."""
    z = (x - x.mean(0)) / x.std(0)
    targets = np.unique(y, return_inverse=True)[1]
    shares = np.bincount(targets) / len(y)
    null = float((shares * np.log(shares)).sum())
    if not units:
        return 0.0
    model = LogisticRegression(C=1 / (RIDGE * len(y)), tol=1e-12, max_iter=10000).fit(z[:, units], targets)
    chances = model.predict_proba(z[:, units])[np.arange(len(y)), targets]
    penalty = RIDGE / 2 * float((model.coef_**2).sum())
    return 1 - (np.log(chances).mean() - penalty) / null


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_follow_the_definition(seed) -> None:
    x, y = problem(2, seed)
    objective, state = LogisticLikelihood(x, y, RIDGE), None
    state = objective.start()
    for unit in (4, 1, 5):
        state = objective.commit(state, unit)
    assert objective.value(state) == pytest.approx(share(x, y, [4, 1, 5]), abs=1e-6)
    expected = [share(x, y, [4, 1, 5, u]) - share(x, y, [4, 1, 5]) for u in (0, 2, 3)]
    np.testing.assert_allclose(objective.gains(state, np.array([0, 2, 3])), expected, atol=1e-6)
    assert objective.gains(state, np.array([1, 4])).tolist() == [0.0, 0.0]
    assert objective.weights(state).tolist() == [0, 1, 0, 0, 1, 1]


def test_several_classes_are_at_a_maximum_and_beat_every_other_point() -> None:
    x, y = problem(3)
    objective = LogisticLikelihood(x, y, RIDGE)
    state = objective.start()
    for unit in (0, 3):
        state = objective.commit(state, unit)
    designs = np.concatenate([np.ones((80, 1)), objective._x[:, [0, 3]]], axis=1)[None]
    best = objective._likelihood(designs, state.coefficients[None])
    rng = np.random.default_rng(0)
    for scale in (1e-4, 1e-2, 1.0):
        nearby = state.coefficients + scale * rng.standard_normal((50, *state.coefficients.shape))
        assert np.all(objective._likelihood(np.repeat(designs, 50, 0), nearby) < best)


@pytest.mark.parametrize("classes", [2, 4])
def test_greedy_values_rise_and_gains_add_up(classes) -> None:
    x, y = problem(classes)
    found = greedy(LogisticLikelihood(x, y), 6)
    assert found.values[0] > 0
    assert np.all(np.diff(found.values) >= -1e-9)
    assert found.values[-1] < 1


def test_separable_classes_and_constant_columns_stay_finite() -> None:
    x = np.column_stack([np.arange(20.0), np.zeros(20), np.arange(20.0) ** 2])
    found = greedy(LogisticLikelihood(x, (np.arange(20) > 9).astype(int)), 3)
    assert np.all(np.isfinite(found.values))
    assert found.order[-1] == 1


def test_wrong_input() -> None:
    x, y = problem(2)
    for make in (
        lambda: LogisticLikelihood(x, y[:-1]),
        lambda: LogisticLikelihood(x, np.zeros(80, dtype=int)),
        lambda: LogisticLikelihood(x, y, ridge=0.0),
        lambda: LogisticLikelihood(np.full_like(x, np.nan), y),
    ):
        with pytest.raises(InvalidSetting, match="given"):
            make()
