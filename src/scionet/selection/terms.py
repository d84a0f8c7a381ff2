"""Inputs of the imitation objectives: second moments of a linear map, and its units' contributions to the output."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scionet.errors import CalibrationError, InvalidSetting
from scionet.typing import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Term:
    """One consumer of the units, with D inputs x and O target outputs y (without bias).

    The target may come from another network than the inputs (asymmetric). Outputs may be scaled, as long as `xy`, `yy`
    and `weight` use the same scale.

    Attributes:
        xx: Second moments ``E[x x^T]``, shape ``(D, D)``, float64.
        xy: Cross moments ``E[x y^T]``, shape ``(D, O)``, float64.
        yy: Mean square of the target, ``E[sum_o y_o^2]``.
        columns: The b inputs of each unit, shape ``(N, b)``.
        fixed: Further inputs that are always present, shape ``(F,)``; may be empty.
        weight: Weights of the dense map, shape ``(O, D)``.
    """

    xx: FloatArray
    xy: FloatArray
    yy: float
    columns: IntArray
    fixed: IntArray
    weight: FloatArray

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            InvalidSetting: If shapes do not match, moments are not float64, or an input is listed twice.
            CalibrationError: If there are NaN or infinite values.
        """
        n_outputs, n_inputs = self.weight.shape
        if self.xx.shape != (n_inputs, n_inputs) or self.xy.shape != (n_inputs, n_outputs):
            raise InvalidSetting(
                f"a weight of shape (O, D) = {self.weight.shape} needs xx of shape (D, D) and xy of shape (D, O); "
                f"given {self.xx.shape} and {self.xy.shape}"
            )
        if self.xx.dtype != np.float64 or self.xy.dtype != np.float64:
            raise InvalidSetting(f"moments must be accumulated in float64; given {self.xx.dtype} and {self.xy.dtype}")
        inputs = np.concatenate([self.columns.ravel(), self.fixed])
        if len(np.unique(inputs)) != len(inputs) or np.any((inputs < 0) | (inputs >= n_inputs)):
            raise InvalidSetting(f"columns and fixed must be distinct inputs in 0..{n_inputs - 1}")
        if not all(np.all(np.isfinite(array)) for array in (self.xx, self.xy, self.yy, self.weight)):
            raise CalibrationError("moments or weights contain NaN or infinite values; check the calibration data")

    @property
    def size(self) -> int:
        """Number of units N."""
        return len(self.columns)

    @property
    def scale(self) -> float:
        """Divisor of errors: the mean square of the target, or 1 if the target is 0."""
        return self.yy if self.yy > 0 else 1.0


@dataclass(frozen=True, eq=False)
class Contributions:
    """Inner products of the units' contributions A_i with each other and with the target of their sum.

    Attributes:
        gram: ``E<A_i, A_j>``, shape ``(N, N)``.
        cross: ``E<A_i, target>``, shape ``(N,)``.
        square: ``E<target, target>``.
    """

    gram: FloatArray
    cross: FloatArray
    square: float

    @classmethod
    def from_terms(cls, terms: Sequence[Term]) -> "Contributions":
        """Sum the inner products over the outputs of all terms, each relative to its target.

        For a linear map, the Gram matrix is ``(H^T H) o (W^T W)``. For a convolution, it is summed over blocks.
        """
        size = common_size(terms)
        gram, cross, square = np.zeros((size, size)), np.zeros(size), 0.0
        for term in terms:
            share = cls._from_term(term)
            gram += share.gram / term.scale
            cross += share.cross / term.scale
            square += share.square / term.scale
        return cls(gram, cross, square)

    @classmethod
    def _from_term(cls, term: Term) -> "Contributions":
        size, width = term.columns.shape
        flat = term.columns.ravel()
        inner = term.xx * (term.weight.T @ term.weight)
        with_target = np.einsum("od,do->d", term.weight, term.xy)
        rows = inner[flat].reshape(size, width, -1).sum(axis=1)
        gram = rows[:, flat].reshape(size, size, width).sum(axis=2)
        cross = with_target[term.columns].sum(axis=1) - rows[:, term.fixed].sum(axis=1)
        fixed = inner[np.ix_(term.fixed, term.fixed)].sum()
        return cls(gram, cross, float(term.yy - 2 * with_target[term.fixed].sum() + fixed))


def common_size(terms: Sequence[Term]) -> int:
    """The number of units N that all terms share.

    Raises:
        InvalidSetting: If there is no term, or the numbers differ.
    """
    sizes = {term.size for term in terms}
    if len(sizes) != 1:
        raise InvalidSetting(f"an objective needs one or more terms over the same units; given sizes {sorted(sizes)}")
    return sizes.pop()
