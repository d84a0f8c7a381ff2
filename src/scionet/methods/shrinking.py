"""How far a refit is held back towards the dense weights: by rows seen, a given share, or held-out examples."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scionet.errors import CalibrationError
from scionet.network.moments import Moments, flatten_weight
from scionet.selection.regression import refit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SHARE = 8
"""One example in so many is held out."""
TRIED = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""What is tried on held-out examples."""


def shrunk(
    moments: Moments, centred: bool, weight: Tensor, shrinkage: float | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean products shrunk towards uncorrelated inputs of the same variances, on which the dense weights are right.

    A refit on few images would fit their accidents; shrunk, it stays near the dense weights as far as the images do not
    speak against them: ``xx`` goes towards its diagonal, ``xy`` towards ``diag(xx) Wᵀ``.

    Args:
        moments: Of the consumer.
        centred: Whether to use covariances.
        weight: The dense weight, shape ``(O, I, ...)``.
        shrinkage: From 0 (the moments as they are) to 1; None takes ``D / (D + rows)``.
    """
    xx, xy, yy = moments.means(centred)
    share = len(xx) / (len(xx) + moments.count) if shrinkage is None else shrinkage
    flat, squares = flatten_weight(weight).detach().to("cpu", torch.float64).numpy(), np.diag(xx).copy()
    xx = (1 - share) * xx
    xx[np.diag_indices_from(xx)] += share * squares
    return xx, (1 - share) * xy + share * squares[:, None] * flat.T, (1 - share) * yy + share * flat**2 @ squares


def fitted_weight(
    moments: Moments, centred: bool, weight: Tensor, columns: IntArray, shrinkage: float | None
) -> FloatArray:
    """The refitted weight ``(O, D)`` on the inputs `columns`; see `shrunk` for the rest."""
    xx, xy, _ = shrunk(moments, centred, weight, shrinkage)
    return refit(xx, xy, columns)


def held_out(size: int, rng: np.random.Generator) -> slice:
    """Which of a batch's examples are held out: one in eight, over all batches in the mean.

    They are neighbours, so that of tokens, which stand one behind the other, whole examples are taken.
    """
    count = int(size / SHARE + rng.random())
    start = int(rng.integers(size - count + 1))
    return slice(start, start + count)


def judged_shrinkage(moments: Moments, centred: bool, weight: Tensor, columns: IntArray, scale: FloatArray) -> float:
    """Which of `TRIED` serves the held-out rows best, when the others are fitted.

    Args:
        moments: Of the consumer, with held-out rows.
        centred: Whether to use covariances, and to fit an intercept.
        weight: The dense weight, shape ``(O, I, ...)``.
        columns: Inputs that may be used.
        scale: Factor of each output in which errors are measured, shape ``(O,)``.

    Raises:
        CalibrationError: If no row is held out, or all are.
    """
    held, fitted = moments.held, moments.fitted
    if held is None or not held.count or not fitted.count:
        raise CalibrationError(
            f"shrinkage 'held_out' judges by one calibration example in {SHARE}, drawn from each batch; there are too "
            f"few: give more examples (32 and above), or a number, or None"
        )

    def error(shrinkage: float) -> float:
        flat = fitted_weight(fitted, centred, weight, columns, shrinkage)
        shift = fitted.shift(flat) if centred else np.zeros(len(flat))
        return float(held.errors(flat, shift) @ scale**2)

    return min(TRIED, key=error)
