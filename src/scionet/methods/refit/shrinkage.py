"""Refits with shrinkage towards the dense weights, whose strength held-out examples can decide."""

import numpy as np
from torch import Tensor

from scionet.errors import CalibrationError
from scionet.methods.calibration.calibration import HELD_OUT
from scionet.methods.refit.regression_problems import shrunk
from scionet.network.passes.moments import Moments
from scionet.selection.regression import refit
from scionet.typing import FloatArray, IntArray

TRIED = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""Strengths of shrinkage that are compared on held-out examples."""


def fitted_weight(
    moments: Moments, centred: bool, weight: Tensor, columns: IntArray, shrinkage: float | None
) -> FloatArray:
    """The refitted weight ``(O, D)`` on the inputs `columns`; see `shrunk` for the rest."""
    xx, xy, _ = shrunk(moments, centred, weight, shrinkage)
    return refit(xx, xy, columns)


def judged_shrinkage(moments: Moments, centred: bool, weight: Tensor, columns: IntArray, scale: FloatArray) -> float:
    """Return the strength in `TRIED` with the least error on held-out rows, after a fit on the other rows.

    Args:
        moments: Moments of the consumer, with held-out rows.
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
            f"shrinkage 'held_out' judges by one calibration example in {HELD_OUT}; there are too few: give 32 "
            "examples or more, or a number, or None"
        )

    def error(shrinkage: float) -> float:
        flat = fitted_weight(fitted, centred, weight, columns, shrinkage)
        shift = fitted.shift(flat) if centred else np.zeros(len(flat))
        return float(held.errors(flat, shift) @ scale**2)

    return min(TRIED, key=error)
