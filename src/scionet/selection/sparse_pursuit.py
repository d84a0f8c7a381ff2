"""i-SpaSP: choose units by iterated thresholding, like compressive sampling matching pursuit (CoSaMP)."""

from dataclasses import dataclass

import numpy as np

from scionet.errors import InvalidSetting
from scionet.typing import FloatArray, IntArray


@dataclass(frozen=True)
class SparsePursuit:
    """The units after the last iteration.

    Attributes:
        kept: The kept units, ascending.
        residuals: ``‖W H − W H_S‖ / ‖W H‖`` (Frobenius) after each iteration.
        converged: Whether the last iteration kept the same units as the one before.
    """

    kept: tuple[int, ...]
    residuals: tuple[float, ...]
    converged: bool


def sparse_pursuit(hidden: FloatArray, weight: FloatArray, n_units: int, iterations: int = 20) -> SparsePursuit:
    """Choose units whose contributions to the next linear map leave the smallest residual.

    Each iteration takes the 2 s units of the largest importance, adds them to the kept ones, and keeps the s units of
    the largest activation. The importance of a unit is the sum over examples of the gradient ``Wᵀ V`` of
    ``½‖V‖²``, where ``V = W H − W H_S`` is the residual. Ties go to the lowest index. It ends early when the units
    repeat. The weights of the kept units are not changed: refit them afterwards.

    Source: Wolfe, Kyrillidis, *i-SpaSP: Structured Neural Pruning via Sparse Signal Recovery*, L4DC 2022.

    Args:
        hidden: Activations H after a nonnegative activation function such as ReLU, shape ``(N, examples)``.
        weight: Weights W of the next map, shape ``(O, N)``.
        n_units: Number s of units to keep.
        iterations: Maximum number of iterations.

    Raises:
        InvalidSetting: If shapes do not match or a number is out of range.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or weight.shape[1] != len(hidden):
        raise InvalidSetting(
            f"hidden has shape (N, examples) and weight (O, N); given {hidden.shape} and {weight.shape}"
        )
    if not 1 <= n_units <= len(hidden) or iterations < 1:
        raise InvalidSetting(
            f"n_units must be from 1 to {len(hidden)}, the number of units, and iterations 1 or more; given {n_units} "
            f"and {iterations}"
        )
    kept, residuals = np.zeros(0, dtype=np.int64), []
    target, activation = weight @ hidden, hidden.sum(axis=1)
    scale = float(np.linalg.norm(target)) or 1.0
    residual = target
    for _ in range(iterations):
        importance = weight.T @ residual.sum(axis=1)
        candidates = np.union1d(kept, _largest(importance, 2 * n_units))
        before, kept = kept, np.sort(candidates[_largest(activation[candidates], n_units)])
        residual = target - weight[:, kept] @ hidden[kept]
        residuals.append(float(np.linalg.norm(residual)) / scale)
        if np.array_equal(before, kept):
            return SparsePursuit(tuple(kept.tolist()), tuple(residuals), True)
    return SparsePursuit(tuple(kept.tolist()), tuple(residuals), False)


def _largest(values: FloatArray, count: int) -> IntArray:
    """Indices of the largest values; ties go to the lowest index."""
    return np.argsort(-values, kind="stable")[:count]
