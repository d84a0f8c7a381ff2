"""What a network costs: measured on a model, and predicted for any widths before anything is cut."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scionet.errors import CalibrationError, InvalidSetting, UnsupportedModel, unknown
from scionet.network.running import Batch, attention_unfused, call, example_count, to_model, undisturbed
from scionet.network.sites import Sites

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        macs: Multiply-accumulates of one forward pass, per example.
        params: Number of parameter entries; tied parameters count once.
    """

    macs: float
    params: int

    def __str__(self) -> str:
        """The cost for a person to read."""
        return f"{self.macs / 1e6:,.4g}M MACs, {self.params / 1e6:,.4g}M parameters"


def measure(model: nn.Module, example_inputs: Batch) -> Cost:
    """The cost of a model as it is, counted by torch at the operator level; the model is left as it was.

    Every convolution and matrix product counts, whatever the class of its module. Elementwise work does not, nor do
    fused recurrent layers (``nn.LSTM`` and its kind), which torch's counter cannot see into.

    Raises:
        CalibrationError: If the inputs hold no example.
    """
    examples = example_count(example_inputs)
    if examples == 0:
        raise CalibrationError("the example inputs have batch size 0; give at least one example")
    with undisturbed(model), attention_unfused(), FlopCounterMode(display=False) as counter:
        call(model, to_model(example_inputs, model))
    flops_per_mac = 2
    macs = counter.get_total_flops() / flops_per_mac / examples
    return Cost(macs, sum(parameter.numel() for parameter in model.parameters()))


@dataclass(frozen=True, eq=False)
class CostModel:
    """The cost of a network at any widths of its sites, exactly and without cutting it.

    A tensor dimension has ``size - sum over sites of (N - kept) * per_unit`` entries left: affine in the widths. A
    parameter has the product over its dimensions of what is left; an operation's MACs shrink as dimensions 0 and 1
    of its weight do, or, if it has none, as its result does. So both costs are quadratic forms ``x^T M x`` of
    ``x = (1, widths)`` with entries of M >= 0, and whole numbers stay exact in floating point.

    Where quantities are in an array, they are ordered (macs, params).

    Attributes:
        sites: The sites of the network.
    """

    sites: Sites

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the sites, in the order of every array of widths."""
        return tuple(self.sites)

    @cached_property
    def full(self) -> IntArray:
        """Width of each dense site, shape ``(site,)``."""
        return np.array([site.width for site in self.sites.values()], dtype=np.int64)

    @cached_property
    def dense(self) -> Cost:
        """The cost of the whole network."""
        return self.cost({})

    def cost(self, widths: Mapping[str, int]) -> Cost:
        """The cost when sites keep so many units; sites that are not named stay whole.

        Raises:
            InvalidSetting: If a site is unknown or a width is not between 0 and the site's own.
        """
        for name, width in widths.items():
            if name not in self.sites:
                raise unknown("site", name, self.names)
            if not 0 <= width <= self.sites[name].width:
                raise InvalidSetting(f"site {name!r} cannot keep {width} units; allowed: 0..{self.sites[name].width}")
        kept = np.array([widths.get(name, site.width) for name, site in self.sites.items()], dtype=np.int64)
        macs, params = self.evaluate(kept)
        return Cost(float(macs), round(params))

    def evaluate(self, kept: IntArray) -> FloatArray:
        """Costs at the given widths: from shape ``(site,)`` to shape ``(quantity,)``."""
        x = np.concatenate(([1.0], kept))
        return self._form @ x @ x

    def shifts(self, kept: IntArray, site: IntArray, step: IntArray) -> FloatArray:
        """How costs change when one site alone changes its width, for many such moves at once.

        Args:
            kept: The widths to start from, shape ``(site,)``.
            site: Position of the site that each move changes, shape ``(move,)``.
            step: What each move adds to the site's width (negative: takes away), shape ``(move,)``.

        Returns:
            Differences of cost, shape ``(quantity, move)``.
        """
        slope = 2 * self._form @ np.concatenate(([1.0], kept))
        return slope[:, site + 1] * step + self._form[:, site + 1, site + 1] * step**2

    def interactions(self, site: IntArray, step: IntArray, other: IntArray, other_step: IntArray) -> FloatArray:
        """What two moves cost together beyond the sum of both, shape ``(quantity, move, other move)``."""
        mixed = 2 * self._form[:, site[:, None] + 1, other + 1]
        return mixed * np.multiply.outer(step, other_step)

    @cached_property
    def _form(self) -> FloatArray:
        """The symmetric matrices M, shape ``(quantity, 1 + site, 1 + site)``."""
        left = self._remaining()
        shapes = self.sites.shapes
        form = np.zeros((2, len(self.names) + 1, len(self.names) + 1))
        for operation in self.sites.operations:
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
        """Entries left of so many, as coefficients of (1, widths), when each unit of a site takes some away."""
        shares = np.array([per_unit.get(name, 0) for name in self.names], dtype=np.float64)
        return np.concatenate(([size - shares @ self.full], shares))


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
