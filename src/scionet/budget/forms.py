"""MACs and parameters at any widths, as exact quadratic forms."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scionet.errors import UnsupportedModel
from scionet.network.sites import Sites
from scionet.typing import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Forms:
    """MACs and parameters of a network at any widths of its sites.

    The remaining size of a tensor dimension is ``size - sum over sites of (N - kept) * per_unit``, which is affine in
    the widths. The size of a parameter is the product of its remaining dimensions. The MACs of an operation shrink in
    proportion to dimensions 0 and 1 of its weight, or to its result if it has no weight. Both costs are therefore
    quadratic forms ``x^T M x`` of ``x = (1, widths)`` with entries of M >= 0. Whole numbers stay exact in floating
    point.

    Attributes:
        sites: The sites of the network.
    """

    sites: Sites

    def evaluate(self, kept: IntArray) -> FloatArray:
        """See `scionet.budget.costs.CostPart`."""
        x = np.concatenate(([1.0], kept))
        return self._form @ x @ x

    def shifts(self, kept: IntArray, site: IntArray, step: IntArray) -> FloatArray:
        """See `scionet.budget.costs.CostPart`."""
        slope = 2 * self._form @ np.concatenate(([1.0], kept))
        return slope[:, site + 1] * step + self._form[:, site + 1, site + 1] * step**2

    def interactions(
        self, kept: IntArray, site: IntArray, step: IntArray, other: IntArray, other_step: IntArray
    ) -> FloatArray:
        """See `scionet.budget.costs.CostPart`."""
        mixed = 2 * self._form[:, site[:, None] + 1, other + 1]
        return mixed * np.multiply.outer(step, other_step)

    @cached_property
    def _form(self) -> FloatArray:
        """The symmetric matrices M, shape ``(quantity, 1 + site, 1 + site)``."""
        left = self._remaining()
        shapes = self.sites.shapes
        form = np.zeros((2, len(self.sites) + 1, len(self.sites) + 1))
        for operation in self.sites.counted:
            weight = operation.weight
            sizes = [extent.size for extent in operation.extents] if weight is None else shapes[weight][:2]
            factors = [self._left(extent.size, extent.per_unit) for extent in operation.extents]
            factors += [left[weight, dim] for dim in (0, 1) if weight is not None]
            _add(form[0], operation.macs / max(np.prod(sizes), 1), factors)
        for name in self.sites.parameters:
            _add(form[1], 1.0, [left[name, dim] for dim in range(len(shapes[name]))])
        return (form + form.transpose(0, 2, 1)) / 2

    def _remaining(self) -> dict[tuple[str, int], FloatArray]:
        """Entries left in each dimension of each tensor, as coefficients of (1, widths)."""
        per_unit: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
        for name, site in self.sites.items():
            for slot in site.slots:
                per_unit[slot.tensor, slot.dim][name] = slot.index.shape[1]
        return {
            (name, dim): self._left(size, per_unit[name, dim])
            for name, shape in self.sites.shapes.items()
            for dim, size in enumerate(shape)
        }

    def _left(self, size: int, per_unit: Mapping[str, int]) -> FloatArray:
        """Entries left of `size`, as coefficients of (1, widths), if a removed unit takes `per_unit` of them away."""
        full = np.array([site.width for site in self.sites.values()], dtype=np.int64)
        shares = np.array([per_unit.get(name, 0) for name in self.sites], dtype=np.float64)
        return np.concatenate(([size - shares @ full], shares))


def _add(matrix: FloatArray, coefficient: float, factors: list[FloatArray]) -> None:
    """Add the product of affine factors to a quadratic form.

    Raises:
        UnsupportedModel: If more than two of the factors vary.
    """
    varying = [factor for factor in factors if factor[1:].any()]
    fixed = [factor[0] for factor in factors if not factor[1:].any()]
    if len(varying) > 2:
        raise UnsupportedModel(
            f"a tensor would shrink in {len(varying)} dimensions at once; costs are counted for at most two: exclude "
            f"its layer with ignored_layers"
        )
    one = np.eye(1, len(matrix))[0]
    first, second = (*varying, one, one)[:2]
    rows, columns = np.flatnonzero(first), np.flatnonzero(second)
    matrix[np.ix_(rows, columns)] += coefficient * np.prod(fixed) * np.multiply.outer(first[rows], second[columns])
