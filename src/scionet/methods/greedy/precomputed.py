"""Evaluates a network for many gates of one site, on examples whose fixed values are precomputed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from scionet.errors import UnsupportedModel
from scionet.methods.greedy.gated_network import GatedSite, supported
from scionet.network.calling import Batch, example_count
from scionet.network.named_outputs import Tensors
from scionet.network.passes.program import Level
from scionet.torch_internals import load_forward_mode, tree_leaves, tree_map

Point = tuple[Tensor, ...]
"""Gates, represented by the values that are affine in them: ``(examples, entries)`` for each such value."""

TOGETHER = {"cpu": 64}
"""Pairs of a candidate and an example that run at once, by kind of device; on a CPU as many as its cache holds."""
TOGETHER_ELSEWHERE = 4096


@dataclass(frozen=True, eq=False)
class Rows:
    """Tensors of one shape and memory layout, each as a row of numbers in the order in which they lie in memory.

    Attributes:
        data: ``(count, entries)``.
        shape: Shape of each tensor.
        order: Its dimensions, from the outermost in memory to the innermost.
    """

    data: Tensor
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def like(cls, tensors: Tensor, count: int) -> "Rows":
        """Room for `count` tensors such as those that are stacked in `tensors`."""
        order = sorted(range(tensors.ndim - 1), key=lambda dim: -tensors.stride(dim + 1))
        data = tensors.new_empty(count, tensors[0].numel())
        return cls(data, tuple(tensors.shape[1:]), tuple(order))

    def put(self, start: int, tensors: Tensor) -> None:
        """Write stacked tensors to the rows from `start` on."""
        laid_out = tensors.permute(0, *(dim + 1 for dim in self.order))
        self.data[start : start + len(tensors)] = laid_out.reshape(len(tensors), -1)

    def shaped(self, rows: Tensor) -> Tensor:
        """Rows as stacked tensors again."""
        back = [self.order.index(dim) + 1 for dim in range(len(self.order))]
        return rows.view(len(rows), *(self.shape[dim] for dim in self.order)).permute(0, *back)


class Precomputed:
    """Examples of one form, with everything that does not depend on the gates.

    A pick moves the gates a to ``a + (N e_i - a) / (n + 1)``. A value v that is affine in the gates moves to
    ``v + (v_i - v) / (n + 1)``, where v_i is its value at the gates ``N e_i``. These *vertices* v_i are computed once
    for each example, so a candidate costs only the operations behind them. If the vertices do not fit into memory, the
    consumers run for each candidate. If the values in front of the consumers do not fit either, the whole network runs.
    """

    def __init__(self, site: GatedSite, inputs: Batch, memory_bytes: float) -> None:
        """Precompute the values that do not depend on the gates.

        Args:
            site: The network.
            inputs: All examples, as one batch.
            memory_bytes: Memory for precomputed values.

        Raises:
            UnsupportedModel: If operations cannot be traced or stacked, or an example's output depends on the others.
        """
        self.size, self.width = example_count(inputs), site.view.site.width
        self.together = TOGETHER.get(site.device.type, TOGETHER_ELSEWHERE)
        self._gates = self.width * torch.eye(self.width + 1, self.width, dtype=site.dtype, device=site.device)
        program = site.program(_examples(inputs, slice(0, 1)))
        tensors = [_fast(leaf).unsqueeze(1) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        with torch.no_grad(), supported():
            for ahead in (Level.AFFINE, Level.EXAMPLE, Level.FIXED):
                self._parts = program.parts(ahead)
                if ahead == Level.FIXED or self._bytes(tensors) <= memory_bytes:
                    break
            self._values, self._vertices = self._ahead(tensors)
        self._refuse_mixing(site, _examples(inputs, slice(0, 8)))

    def start(self) -> Point:
        """The gates with no unit."""
        return tuple(self._by_example(vertices)[:, self.width].clone() for vertices in self._vertices)

    def whole(self, rows: slice) -> Point:
        """The gates with all units, for some examples: the mean of the vertices."""
        return tuple(self._by_example(vertices)[rows, : self.width].mean(1) for vertices in self._vertices)

    def moved(self, point: Point, n_picks: int, units: Tensor, rows: Tensor) -> Point:
        """Values of pairs of a unit and an example, the unit picked once more than in `point`."""
        places = rows * (self.width + 1) + units
        return tuple(
            torch.lerp(values.index_select(0, rows), vertices.data.index_select(0, places), 1 / (n_picks + 1))
            for values, vertices in zip(point, self._vertices, strict=True)
        )

    def advanced(self, point: Point, n_picks: int, unit: int) -> Point:
        """The point of the gates with one unit picked once more."""
        return tuple(
            torch.lerp(values, self._by_example(vertices)[:, unit], 1 / (n_picks + 1))
            for values, vertices in zip(point, self._vertices, strict=True)
        )

    def outputs(self, point: Point, rows: Tensor) -> Tensors:
        """The outputs of some examples, whose values `point` holds."""
        gated = [vertices.shaped(values) for vertices, values in zip(self._vertices, point, strict=True)]
        plain = [values.shaped(values.data.index_select(0, rows)) for values in self._values]
        with supported():
            found = vmap(self._parts.rest)(*gated, *plain)
        return tuple(each[:, 0] if each.shape[1:2] == (1,) else each for each in found)

    def outputs_at(self, point: Point, rows: slice) -> Tensors:
        """The outputs of some of the examples whose values `point` holds."""
        return self.outputs(tuple(values[rows] for values in point), self._index(rows))

    def whole_outputs(self, rows: slice) -> Tensors:
        """The outputs of some examples with the whole site."""
        return self.outputs(self.whole(rows), self._index(rows))

    def slopes(self, point: Point, rows: slice, score: Callable[[Tensors], Tensor]) -> Tensor:
        """The slope of the summed loss of some examples per step towards each vertex, ``(N,)``."""
        here, index = tuple(values[rows] for values in point), self._index(rows)
        with supported():
            descent = grad(lambda values: score(self.outputs(values, index)).sum())(here)
        total = torch.zeros(self.width, dtype=torch.float64, device=index.device)
        for values, slope, vertices in zip(here, descent, self._vertices, strict=True):
            towards = self._by_example(vertices)[rows, : self.width] @ slope[:, :, None]
            total += towards.double().sum((0, 2)) - (values * slope).double().sum()
        return total

    def effects(self) -> Iterator[tuple[Tensors, Tensors]]:
        """Outputs of the whole network, and the derivatives of each, ``(N, examples, ...)``, a few examples a time."""
        for rows in _parts(slice(0, self.size), max(1, 8 * self.together // self.width)):
            yield self.whole_outputs(rows), self._derivatives(rows)

    def _derivatives(self, rows: slice) -> Tensors:
        whole, index = self.whole(rows), self._index(rows)
        each = [self._by_example(vertices)[rows].transpose(0, 1) for vertices in self._vertices]
        directions = tuple((vertices[:-1] - vertices[-1:]) / self.width for vertices in each)
        load_forward_mode()
        with supported():
            return vmap(lambda *along: jvp(lambda *point: self.outputs(point, index), whole, along)[1])(*directions)

    def parts(self, rows: slice) -> Iterator[slice]:
        """Consecutive examples, as many at a time as are run at once."""
        return _parts(rows, self.together)

    def _index(self, rows: slice) -> Tensor:
        return torch.arange(rows.start, rows.stop, device=self._gates.device)

    def _by_example(self, vertices: Rows) -> Tensor:
        """``(examples, N + 1, entries)``: each unit alone, and none."""
        return vertices.data.view(self.size, self.width + 1, -1)

    def _bytes(self, tensors: Sequence[Tensor]) -> int:
        """Bytes that `_ahead` and a point need."""
        needed, plain = self._parts.example(*(tensor[0] for tensor in tensors))
        affine = self._parts.gates(self._gates[0], *needed)
        return self.size * (sum(t.nbytes for t in plain) + (self.width + 2) * sum(t.nbytes for t in affine))

    def _ahead(self, tensors: Sequence[Tensor]) -> tuple[list[Rows], list[Rows]]:
        """The values that the rest of the network needs of each example, and the vertices."""
        values: list[Rows] = []
        vertices: list[Rows] = []
        few = max(1, self.together // (self.width + 1))
        for rows in self.parts(slice(0, self.size)):
            needed, plain = vmap(self._parts.example)(*(tensor[rows] for tensor in tensors))
            _put(values, rows.start, plain, self.size)
            for some in _parts(slice(0, rows.stop - rows.start), few):
                found = self._at_vertices([tensor[some] for tensor in needed], some.stop - some.start)
                start = (rows.start + some.start) * (self.width + 1)
                _put(vertices, start, [t.flatten(0, 1) for t in found], self.size * (self.width + 1))
        return values, vertices

    def _at_vertices(self, needed: Sequence[Tensor], n_examples: int) -> tuple[Tensor, ...]:
        """The affine values of some examples at all vertices, ``(examples, N + 1, ...)`` each."""
        every = vmap(self._parts.gates, in_dims=(0, *[None] * len(needed)))
        if needed:
            return vmap(every, in_dims=(None, *[0] * len(needed)))(self._gates, *needed)
        return tuple(value.expand(n_examples, *value.shape) for value in every(self._gates))

    def _refuse_mixing(self, site: GatedSite, inputs: Batch) -> None:
        """Compare with the network itself on a few examples.

        Raises:
            UnsupportedModel: If it gives something else when examples come together.
        """
        rows = slice(0, example_count(inputs))
        pairs = list(zip(self.whole_outputs(rows), site.whole(inputs), strict=True))
        if any(not _close(alone, together) and bool(torch.isfinite(together).all()) for alone, together in pairs):
            raise UnsupportedModel(
                "the network gives other outputs for an example alone than for one in a batch, so candidates cannot be "
                "evaluated example by example; choose local imitation, such as objective 'least_squares'"
            )


def _close(alone: Tensor, together: Tensor) -> bool:
    """Whether an output is nearly the same for examples alone and in a batch."""
    return alone.shape == together.shape and bool((alone - together).norm() <= 0.05 * together.norm())


def _examples(inputs: Batch, rows: slice) -> Batch:
    return tree_map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) else leaf, inputs)


def _fast(tensor: Tensor) -> Tensor:
    """Pictures in the faster memory format."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _parts(rows: slice, together: int) -> Iterator[slice]:
    """Consecutive slices of at most `together` rows."""
    return (slice(start, min(start + together, rows.stop)) for start in range(rows.start, rows.stop, together))


def _put(kept: list[Rows], start: int, tensors: Sequence[Tensor], count: int) -> None:
    """Write stacked tensors, each to its rows; make room for `count` of each at the first call."""
    if not kept:
        kept += [Rows.like(tensor, count) for tensor in tensors]
    for rows, tensor in zip(kept, tensors, strict=True):
        rows.put(start, tensor)
