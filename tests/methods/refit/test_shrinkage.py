"""Shrinkage by held-out rows against fitting and judging explicit rows."""

from typing import Any

import numpy as np
import pytest
import torch
from support.naive import regression

from scionet.errors import CalibrationError
from scionet.methods.refit.shrinkage import TRIED, judged_shrinkage
from scionet.network.passes.moments import Moments

WIDE = torch.float64


def problem(n_rows: int, noise: float, truth: float = 1.0) -> tuple[Any, Any, torch.Tensor]:
    """Rows of 6 inputs and 3 targets; the dense weight, of which `truth` times gives the targets."""
    rng = np.random.default_rng(n_rows)
    x, weight = rng.normal(size=(n_rows, 6)) @ rng.normal(size=(6, 6)) + 1, rng.normal(size=(3, 6))
    y = truth * x @ weight.T + noise * rng.normal(size=(n_rows, 3)) + 2
    return x, y, torch.from_numpy(weight)


def moments(x, y, held: slice | None) -> Moments:
    rows = None if held is None else torch.isin(torch.arange(len(x)), torch.arange(len(x))[held])
    return Moments.of(torch.from_numpy(x), torch.from_numpy(y), rows)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    ("n_rows", "noise", "truth"), [(24, 3.0, 1.0), (40, 0.5, 0.7), (400, 1.0, 0.9), (400, 0.1, -1)]
)
def test_it_is_the_one_of_least_error_on_held_rows(n_rows, noise, truth, centred) -> None:
    x, y, weight = problem(n_rows, noise, truth)
    held, used, scale = slice(4, 4 + n_rows // 8), [0, 2, 3, 5], np.array([1.0, 3.0, 0.2])
    rest = np.r_[0:4, 4 + n_rows // 8 : n_rows]

    def error(share: float) -> float:
        fitted = regression(x[rest][:, :, None], y[rest], weight, centred=centred, share=share).solve(used)[..., 0]
        shift = (y[rest] - x[rest] @ fitted.T).mean(0) if centred else np.zeros(3)
        return float((((y[held] - x[held] @ fitted.T - shift) * scale) ** 2).mean(0).sum())

    errors = [error(share) for share in TRIED]
    found = judged_shrinkage(moments(x, y, held), centred, weight, np.array(used), scale)
    assert found == TRIED[int(np.argmin(errors))]


def test_little_is_learnt_of_few_noisy_rows_and_much_of_many_that_contradict() -> None:
    everything = np.arange(6)
    x, y, weight = problem(10, 20.0)
    assert judged_shrinkage(moments(x, y, slice(0, 2)), True, weight, everything, np.ones(3)) >= 0.1
    x, y, weight = problem(2000, 0.1, -1.0)
    assert judged_shrinkage(moments(x, y, slice(0, 250)), True, weight, everything, np.ones(3)) == 0


@pytest.mark.parametrize("held", [None, slice(0, 0), slice(0, 9)])
def test_rows_on_both_sides_are_needed(held) -> None:
    x, y, weight = problem(9, 1.0)
    with pytest.raises(CalibrationError, match="too few"):
        judged_shrinkage(moments(x, y, held), True, weight, np.arange(6), np.ones(3))
