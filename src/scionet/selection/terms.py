"""What imitation needs to know of a linear map: second moments, and the units' contributions to its output."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scionet.errors import CalibrationError, InvalidSetting
from scionet.selection.objective import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Term:
    """One consumer of the units. x: its D inputs, y: its O target outputs without bias.

    The target may come from another network than the inputs (asymmetric), and each output may be scaled, as long as
    `xy`, `yy` and `weight` share the scale.

    Attributes:
        xx: Second moments ``E[x x^T]``, shape ``(D, D)``, float64.
        xy: Cross moments ``E[x y^T]``, shape ``(D, O)``, float64.
        yy: Mean square of the target, ``E[sum_o y_o^2]``.
        columns: The b inputs that belong to each unit, shape ``(N, b)``.
        fixed: Further inputs, present whatever is selected, shape ``(F,)``; may be empty.
        weight: The dense map, shape ``(O, D)``.
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
            InvalidSetting: If shapes do not fit, moments are not float64, or an input is named twice.
            CalibrationError: If there are NaN or infinite values.
        """
        d, o = self.weight.shape
        if self.xx.shape != (o, o) or self.xy.shape != (o, d):
            raise InvalidSetting(
                f"weight {self.weight.shape} is (O, D) and needs xx (D, D) and xy (D, O); given {self.xx.shape} and "
                f"{self.xy.shape}"
            )
        if self.xx.dtype != np.float64 or self.xy.dtype != np.float64:
            raise InvalidSetting(f"moments must be accumulated in float64; given {self.xx.dtype} and {self.xy.dtype}")
        inputs = np.concatenate([self.columns.ravel(), self.fixed])
        if len(np.unique(inputs)) != len(inputs) or np.any((inputs < 0) | (inputs >= o)):
            raise InvalidSetting(f"columns and fixed must name different inputs of 0..{o - 1}")
        if not all(np.all(np.isfinite(array)) for array in (self.xx, self.xy, self.yy, self.weight)):
            raise CalibrationError("moments or weights hold NaN or infinite values; check the calibration data")

    @property
    def size(self) -> int:
        """Number of units N."""
        return len(self.columns)

    @property
    def scale(self) -> float:
        """What errors are divided by: the mean square of the target; 1 if the target is 0."""
        return self.yy if self.yy > 0 else 1.0


@dataclass(frozen=True, eq=False)
class Contributions:
    """The inner products of the units' contributions A_i and of what they are to add up to.

    Attributes:
        gram: ``E<A_i, A_j>``, shape ``(N, N)``.
        cross: ``E<A_i, target>``, shape ``(N,)``.
        square: ``E<target, target>``.
    """

    gram: FloatArray
    cross: FloatArray
    square: float

    @classmethod
    def of(cls, terms: Sequence[Term]) -> "Contributions":
        """The inner products over the outputs of all terms side by side, each relative to its target.

        For a linear map the Gram matrix is ``(H^T H) o (W^T W)``; for a convolution it is summed over blocks.
        """
        size = common_size(terms)
        gram, cross, square = np.zeros((size, size)), np.zeros(size), 0.0
        for term in terms:
            share = cls._of_term(term)
            gram += share.gram / term.scale
            cross += share.cross / term.scale
            square += share.square / term.scale
        return cls(gram, cross, square)

    @classmethod
    def _of_term(cls, term: Term) -> "Contributions":
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
    """Number of units N of all terms.

    Raises:
        InvalidSetting: If there is no term, or the numbers differ.
    """
    sizes = {term.size for term in terms}
    if len(sizes) != 1:
        raise InvalidSetting(f"an objective needs one or more terms over the same units; given sizes {sorted(sizes)}")
    return sizes.pop()
