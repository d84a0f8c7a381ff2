"""The operations of a network as they can be run again at other widths, one for each that is distinct by its shapes.

In one watched forward pass every tensor argument of every operation says which of its dimensions shrink with which
sites: its planes of labels know (see
`scionet.network.discovery.tracing`). So nothing here knows what a convolution is, except that its groups shrink with
its channels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.network.calling import Batch, place_of
from scionet.network.discovery import rules
from scionet.network.discovery.tracing import Call, Trace, varying, watch
from scionet.network.sites import Sites
from scionet.torch_internals import TreeSpec, tree_flatten, tree_unflatten

STEP = 8
"""Channels between two widths that are measured, where a dimension is narrow."""
POINTS = 8
"""Widths that are measured of a dimension, at most."""
MOST_AXES = 2
"""The dimensions of an operation with more (a concatenation) shrink together, in the mean."""


@dataclass(frozen=True)
class Axis:
    """How a dimension shrinks: the fraction of its entries that is left is ``1 - sum of share x (1 - density)``.

    Attributes:
        shares: By site, the fraction of the dense dimension's entries that are its units.
    """

    shares: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Argument:
    """A tensor argument: its dense shape, and what shrinks.

    Attributes:
        shape: Dense shape.
        order: Its dimensions as they lie in memory, the slowest first.
        dtype: Type of its entries.
        axes: Pairs of a dimension and the axis that it shrinks with.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype
    axes: tuple[tuple[int, int], ...]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Pairs of an axis and the dense size of a dimension on it."""
        return [(axis, self.shape[dim]) for dim, axis in self.axes]

    def at(self, fractions: tuple[float, ...], device: torch.device) -> Tensor:
        """Ones in the shape that is left."""
        shape = list(self.shape)
        for dim, axis in self.axes:
            shape[dim] = max(1, round(shape[dim] * fractions[axis]))
        laid_out = torch.ones([shape[dim] for dim in self.order], dtype=self.dtype, device=device)
        return laid_out.permute(np.argsort(self.order).tolist())


@dataclass(frozen=True)
class Groups:
    """The number of groups of a convolution."""

    count: int
    axis: int

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The axis and the dense number."""
        return [(self.axis, self.count)]

    def at(self, fractions: tuple[float, ...], device: torch.device) -> int:
        """The groups that are left."""
        return max(1, round(self.count * fractions[self.axis]))


@dataclass(frozen=True)
class Kernel:
    """An operation at certain dense shapes, to be run at other widths.

    Attributes:
        func: The operator.
        leaves: Its arguments, flattened; tensors as `Argument`, and the number of groups as `Groups`.
        spec: How they were nested.
    """

    func: Any
    leaves: tuple[Any, ...]
    spec: TreeSpec = field(compare=False)

    @cached_property
    def knots(self) -> tuple[tuple[float, ...], ...]:
        """For each axis the fractions of it that are measured, ascending to 1.

        They are such that every size on the axis stays a whole number.
        """
        sizes: dict[int, list[int]] = {}
        for axis, size in (pair for leaf in self.leaves if isinstance(leaf, Argument | Groups) for pair in leaf.sizes):
            sizes.setdefault(axis, []).append(size)
        return tuple(_knots(math.gcd(*sizes[axis]), max(sizes[axis])) for axis in sorted(sizes))

    @property
    def name(self) -> str:
        """The operator and the shapes of its tensors."""
        shapes = " ".join("x".join(map(str, leaf.shape)) for leaf in self.leaves if isinstance(leaf, Argument))
        return f"{self.func.overloadpacket.__name__} {shapes}"

    @property
    def points(self) -> list[tuple[float, ...]]:
        """Every combination of knots, the last axis fastest."""
        return list(product(*self.knots))

    def at(self, fractions: tuple[float, ...], device: torch.device) -> partial[Any]:
        """The operation with new arguments at these fractions of its axes."""
        leaves = [leaf.at(fractions, device) if isinstance(leaf, Argument | Groups) else leaf for leaf in self.leaves]
        args, kwargs = tree_unflatten(leaves, self.spec)
        return partial(self.func, *args, **kwargs)

    def runs(self, device: torch.device) -> bool:
        """Whether it can be run at other widths: not where a dense size is written among its arguments."""
        try:
            self.at(self.points[0], device)()
        except Exception:  # whatever an operator raises
            return False
        return True


Uses = Mapping[Kernel, list[tuple[Axis, ...]]]
"""Each distinct operation, in order of execution, with the axes of each of its calls."""


def operations(model: nn.Module, batch: Batch, sites: Sites) -> Uses:
    """Every operation of a forward pass that can be run at other widths, and shrinks with the sites.

    Args:
        model: The network.
        batch: What it is called on, on its device.
        sites: Its sites.
    """
    recorder = _OperationRecorder(sites)
    watch(model, batch, recorder)
    with torch.no_grad():
        return {kernel: calls for kernel, calls in recorder.uses.items() if kernel.runs(place_of(model)[0])}


class _OperationRecorder:
    """A rule for `watch` that writes down what it sees before it applies the rules of the network room."""

    def __init__(self, sites: Sites) -> None:
        self.uses: dict[Kernel, list[tuple[Axis, ...]]] = {}
        self._sites = sites
        self._owner: np.ndarray | None = None

    def __call__(self, trace: Trace, done: Call) -> None:
        if not _is_view(done.func):
            self._record(trace, done)
        rules.apply(trace, done)

    def _record(self, trace: Trace, done: Call) -> None:
        leaves, spec = tree_flatten((tuple(done.args), done.kwargs))
        shrinks = [self._shrinks(trace, leaf) for leaf in leaves]
        whole = all(leaf.is_floating_point() for leaf, dims in zip(leaves, shrinks, strict=True) if dims)
        axes = tuple(dict.fromkeys(axis for dims in shrinks for axis in dims.values()))
        if not axes or not whole:  # indices would point beyond what is left
            return
        common = len(axes) > MOST_AXES
        found = [
            _argument(leaf, {dim: 0 if common else axes.index(axis) for dim, axis in dims.items()})
            for leaf, dims in zip(leaves, shrinks, strict=True)
        ]
        if done.name == "convolution" and found[-1] > 1 and (axis := dict(found[1].axes).get(0)) is not None:
            found[-1] = Groups(found[-1], axis)
        calls = self.uses.setdefault(Kernel(done.func, tuple(found), spec), [])
        calls.append((_mean(leaves, shrinks),) if common else axes)

    def _shrinks(self, trace: Trace, leaf: Any) -> dict[int, Axis]:
        """The dimensions of an argument that shrink."""
        found = {}
        for plane in trace.planes(leaf):
            dim = max(varying(plane), key=lambda d: plane.shape[d])
            owners = self._owners(trace)[plane[plane >= 0].numpy()]
            names, counts = np.unique(owners[owners >= 0], return_counts=True)
            if len(names):
                sites = list(self._sites)
                found[dim] = Axis(tuple((sites[i], n / plane.numel()) for i, n in zip(names, counts, strict=True)))
        return found

    def _owners(self, trace: Trace) -> np.ndarray:
        """Position of the site that every label belongs to, -1 where it belongs to none."""
        if self._owner is None:
            first = {(block.tensor, block.dim): block.first for block in trace.blocks}
            self._owner = np.full(max(block.first + block.size for block in trace.blocks), -1)
            for number, site in enumerate(self._sites.values()):
                for slot in site.slots:
                    self._owner[first[slot.tensor, slot.dim] + slot.index.ravel()] = number
        return self._owner


def _is_view(func: Any) -> bool:
    """Whether an operator only looks at its argument in another way, which takes no time that depends on widths."""
    aliases = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _argument(leaf: Any, axes: Mapping[int, int]) -> Any:
    """A floating-point tensor as what is known of it; anything else as it is."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    order = sorted(range(leaf.ndim), key=lambda dim: -leaf.stride(dim))
    return Argument(tuple(leaf.shape), tuple(order), leaf.dtype, tuple(axes.items()))


def _mean(leaves: Sequence[Any], shrinks: Sequence[Mapping[int, Axis]]) -> Axis:
    """The axis along which the entries of all dimensions that shrink are counted together."""
    sized = [(leaf.shape[d], a) for leaf, dims in zip(leaves, shrinks, strict=True) for d, a in dims.items()]
    total = sum(size for size, _ in sized)
    shares: dict[str, float] = {}
    for size, axis in sized:
        for site, share in axis.shares:
            shares[site] = shares.get(site, 0.0) + size * share / total
    return Axis(tuple(shares.items()))


def _knots(grain: int, size: int) -> tuple[float, ...]:
    """Fractions of a dimension that is divided into `grain` equal parts: every `STEP` entries, or `POINTS` in all."""
    step = max(1, STEP * grain // size)
    counts = [*range(step, grain, step), grain]
    chosen = np.unique(np.linspace(0, len(counts) - 1, min(POINTS, len(counts))).round().astype(int))
    return tuple(counts[i] / grain for i in chosen)
