"""The operations of a network in a form that can be run at other widths; operations of equal shapes count as one.

One forward pass is traced. The trace records which dimensions of every tensor argument shrink with which sites (see
`scionet.network.discovery.tracing`). The kind of an operation is therefore unimportant, except that the groups of a
convolution shrink with its channels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scionet.network.calling import Batch
from scionet.network.discovery import rules
from scionet.network.discovery.trace_records import Call
from scionet.network.discovery.tracing import Trace, trace_forward, varying
from scionet.network.network import Network
from scionet.network.sites import Sites
from scionet.torch_internals import TreeSpec, tree_flatten, tree_unflatten

STEP = 8
"""Channels between two measured widths of a narrow dimension."""
POINTS = 8
"""Largest number of measured widths of a dimension."""
MOST_AXES = 2
"""Largest number of axes; dimensions of an operation with more (a concatenation) shrink together, by their mean."""


@dataclass(frozen=True)
class Axis:
    """How a dimension shrinks: the fraction ``1 - sum of share x (1 - density)`` of its entries is left.

    Attributes:
        shares: Pairs of a site and the fraction of the dense dimension's entries that belong to it.
    """

    shares: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Argument:
    """A tensor argument: its dense shape, and the dimensions that shrink.

    Attributes:
        shape: Dense shape.
        order: Its dimensions in the order of memory, the outermost first.
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
        """A tensor of ones of the remaining shape."""
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
        """The axis and the dense number of groups."""
        return [(self.axis, self.count)]

    def at(self, fractions: tuple[float, ...], device: torch.device) -> int:
        """The remaining number of groups."""
        return max(1, round(self.count * fractions[self.axis]))


@dataclass(frozen=True)
class Kernel:
    """An operation with certain dense shapes, which can be run at other widths.

    Attributes:
        func: The operator.
        leaves: Its arguments, flattened; tensors as `Argument`, and the number of groups as `Groups`.
        spec: How the arguments are nested.
    """

    func: Any
    leaves: tuple[Any, ...]
    spec: TreeSpec = field(compare=False)

    @cached_property
    def knots(self) -> tuple[tuple[float, ...], ...]:
        """The measured fractions of each axis, ascending to 1. Every size on the axis stays a whole number."""
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
        """All combinations of knots, the last axis fastest."""
        return list(product(*self.knots))

    def at(self, fractions: tuple[float, ...], device: torch.device) -> partial[Any]:
        """The operation with new arguments at the given fractions of its axes."""
        leaves = [leaf.at(fractions, device) if isinstance(leaf, Argument | Groups) else leaf for leaf in self.leaves]
        args, kwargs = tree_unflatten(leaves, self.spec)
        return partial(self.func, *args, **kwargs)

    def runs(self, device: torch.device) -> bool:
        """Whether it runs at other widths; it does not if one of its arguments is a dense size."""
        try:
            self.at(self.points[0], device)()
        except Exception:  # an operator may raise anything
            return False
        return True


@dataclass(frozen=True)
class Use:
    """A call of an operation.

    Attributes:
        axes: The axes that it shrinks along; none where it does not shrink.
        branches: The residual branches that it is part of, by name.
    """

    axes: tuple[Axis, ...]
    branches: tuple[str, ...] = ()


Uses = Mapping[Kernel, list[Use]]
"""Each distinct operation, in order of execution, with each of its calls."""


def operations(network: Network, batch: Batch) -> Uses:
    """Every operation of a forward pass that shrinks with the sites, or goes with a branch, and can be run by itself.

    Args:
        network: The network.
        batch: The batch that it is called on, on its device.
    """
    recorder = _OperationRecorder(network.sites)
    trace_forward(network, batch, recorder)
    with torch.no_grad():
        return {kernel: calls for kernel, calls in recorder.uses.items() if kernel.runs(network.device)}


class _OperationRecorder:
    """A rule for `trace_forward` that records each operation, and then applies the rules of discovery."""

    def __init__(self, sites: Sites) -> None:
        self.uses: dict[Kernel, list[Use]] = {}
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
        branches = self._branches_at(trace)
        if not (axes or branches) or not whole:  # indices would point beyond what is left
            return
        common = len(axes) > MOST_AXES
        found = [
            _argument(leaf, {dim: 0 if common else axes.index(axis) for dim, axis in dims.items()})
            for leaf, dims in zip(leaves, shrinks, strict=True)
        ]
        if done.name == "convolution" and found[-1] > 1 and (axis := dict(found[1].axes).get(0)) is not None:
            found[-1] = Groups(found[-1], axis)
        calls = self.uses.setdefault(Kernel(done.func, tuple(found), spec), [])
        calls.append(Use((_mean(leaves, shrinks),) if common else axes, branches))

    def _branches_at(self, trace: Trace) -> tuple[str, ...]:
        """The branches whose modules are running."""
        running = trace.path.running
        return tuple(name for name, b in self._sites.branches.items() if any(map(b.removal.takes, running)))

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
        """Position of the site that each tag belongs to, or -1."""
        if self._owner is None:
            first = {(block.tensor, block.dim): block.first for block in trace.blocks}
            self._owner = np.full(max(block.first + block.size for block in trace.blocks), -1)
            for number, site in enumerate(self._sites.values()):
                for slot in site.slots:
                    self._owner[first[slot.tensor, slot.dim] + slot.index.ravel()] = number
        return self._owner


def _is_view(func: Any) -> bool:
    """Whether an operator returns a view of its argument, which takes no time that depends on widths."""
    aliases = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _argument(leaf: Any, axes: Mapping[int, int]) -> Any:
    """The description of a floating-point tensor; any other argument unchanged."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    order = sorted(range(leaf.ndim), key=lambda dim: -leaf.stride(dim))
    return Argument(tuple(leaf.shape), tuple(order), leaf.dtype, tuple(axes.items()))


def _mean(leaves: Sequence[Any], shrinks: Sequence[Mapping[int, Axis]]) -> Axis:
    """The axis on which the entries of all dimensions that shrink count together."""
    sized = [(leaf.shape[d], a) for leaf, dims in zip(leaves, shrinks, strict=True) for d, a in dims.items()]
    total = sum(size for size, _ in sized)
    shares: dict[str, float] = {}
    for size, axis in sized:
        for site, share in axis.shares:
            shares[site] = shares.get(site, 0.0) + size * share / total
    return Axis(tuple(shares.items()))


def _knots(grain: int, size: int) -> tuple[float, ...]:
    """Measured fractions of a dimension of `grain` equal parts: every `STEP` entries, but at most `POINTS` in all."""
    step = max(1, STEP * grain // size)
    counts = [*range(step, grain, step), grain]
    chosen = np.unique(np.linspace(0, len(counts) - 1, min(POINTS, len(counts))).round().astype(int))
    return tuple(counts[i] / grain for i in chosen)
