"""i-SpaSP, step by step with sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scionet.errors import InvalidSetting
from scionet.selection.sparse_pursuit import sparse_pursuit


def slow(hidden: np.ndarray, weight: np.ndarray, s: int, iterations: int) -> tuple[list[int], list[float]]:
    """The algorithm with explicit gradients."""
    kept: list[int] = []
    errors = []
    for _ in range(iterations):
        masked = np.array([row if i in kept else 0 * row for i, row in enumerate(hidden)])
        gradient = weight.T @ (weight @ hidden - weight @ masked)
        ranked = sorted(range(len(hidden)), key=lambda i: (-gradient[i].sum(), i))
        merged = sorted({*kept, *ranked[: 2 * s]})
        kept = sorted(sorted(merged, key=lambda i: (-hidden[i].sum(), i))[:s])
        rest = weight @ hidden - weight[:, kept] @ hidden[kept]
        errors.append(np.sqrt((rest**2).sum() / ((weight @ hidden) ** 2).sum()))
    return kept, errors


def problem(seed: int, size: int = 12, outputs: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.standard_normal((size, 30)), 0) * rng.exponential(1, (size, 1)), rng.standard_normal(
        (outputs, size)
    )


@given(st.integers(0, 200), st.integers(1, 12), st.integers(1, 8))
def test_iterations_are_those_of_the_definition(seed, s, iterations) -> None:
    hidden, weight = problem(seed)
    found = sparse_pursuit(hidden, weight, s, iterations)
    kept, errors = slow(hidden, weight, s, iterations)
    assert list(found.kept) == kept
    np.testing.assert_allclose(found.residuals, errors[: len(found.residuals)], rtol=1e-10, atol=1e-14)
    assert found.converged or len(found.residuals) == iterations


def test_all_units_leave_no_residual() -> None:
    found = sparse_pursuit(*problem(0), 12)
    assert found.kept == tuple(range(12))
    assert found.residuals[-1] == pytest.approx(0, abs=1e-15)


def test_a_sparse_layer_is_recovered_and_copies_go_to_the_lowest_index() -> None:
    rng = np.random.default_rng(0)
    hidden = np.zeros((40, 100))
    hidden[[3, 17, 31]] = rng.uniform(1, 2, (3, 100))
    weight = rng.standard_normal((400, 40)) / 20
    found = sparse_pursuit(hidden, weight, 3)
    assert found.kept == (3, 17, 31)
    assert found.converged
    alike = sparse_pursuit(np.ones((6, 5)), np.ones((2, 6)), 2)
    assert alike.kept == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 4)), np.ones((2, 4)), 1), "hidden has shape"),
        ((np.ones(3), np.ones((2, 3)), 1), "hidden has shape"),
        ((np.ones((3, 4)), np.ones((2, 3)), 0), "from 1 to 3"),
        ((np.ones((3, 4)), np.ones((2, 3)), 4), "from 1 to 3"),
        ((np.ones((3, 4)), np.ones((2, 3)), 1, 0), "iterations 1 or more"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message) -> None:
    with pytest.raises(InvalidSetting, match=message):
        sparse_pursuit(*arguments)
