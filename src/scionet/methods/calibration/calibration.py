"""Calibration: the examples that a method uses, read once from the caller's data."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scionet.errors import CalibrationError
from scionet.methods.calibration.storage import Storage
from scionet.network.calling import (
    Batch,
    as_arguments,
    call,
    concatenated,
    divides,
    example_count,
    form_of,
    inputs_like,
    some_of,
    tensors_of,
)
from scionet.network.multiprocess import largest, summed, world
from scionet.network.network import Network
from scionet.seeds import Generators, coprime_step
from scionet.torch_internals import tree_map
from scionet.typing import BoolArray, IntArray

ALL = 2**40
"""A count that exceeds any number of examples."""
HELD_OUT = 8
"""One example in this many is held out where a fit is judged."""
_BLOCK = 64
"""Size of the blocks of consecutive examples that are shuffled when parts are sampled."""


@dataclass(frozen=True, eq=False)
class CalibrationBatch:
    """Examples that go through the network together.

    Attributes:
        inputs: What the network is called on.
        labels: Their labels, if there are any.
        numbers: The number of each example among those of all processes, in order, shape ``(examples,)``.
        whole: Whether its examples stay together, because each call of the network needs as many.
    """

    inputs: Batch
    labels: Any
    numbers: IntArray
    whole: bool = False

    @property
    def divisible(self) -> bool:
        """Whether its examples can be separated: all tensors have them as the first dimension."""
        labels = self.labels is None or (isinstance(self.labels, Tensor) and len(self.labels) == len(self.numbers))
        return not self.whole and labels and divides(self.inputs)

    def some(self, which: IntArray) -> "CalibrationBatch":
        """Some of its examples."""
        if len(which) == len(self.numbers):
            return self
        run = len(which) and which[-1] - which[0] == len(which) - 1
        index = slice(int(which[0]), int(which[-1]) + 1) if run else torch.from_numpy(which)
        found: Any = some_of((self.inputs, self.labels), index)
        return CalibrationBatch(found[0], found[1], self.numbers[which])


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration examples in batches of one size, regrouped from the caller's batches.

    Random choices are made for each example by its number. The same examples in other batches, or divided among several
    processes, therefore give the same plan.

    Attributes:
        batches: The examples of this process.
        batch_size: Examples of a batch; the last batch of each form may be smaller.
        storage: Keeps the temporary files that examples are mapped from, if there are any.
    """

    batches: tuple[CalibrationBatch, ...]
    batch_size: int
    storage: Storage | None = field(default=None, repr=False)

    @property
    def inputs(self) -> list[Batch]:
        """The inputs of all batches."""
        return [batch.inputs for batch in self.batches]

    @property
    def pairs(self) -> list[tuple[Batch, Any]]:
        """Inputs and labels of all batches."""
        return [(batch.inputs, batch.labels) for batch in self.batches]

    @cached_property
    def count(self) -> int:
        """Number of examples of this process."""
        return _count(self.batches)

    def total(self, device: torch.device) -> int:
        """Number of examples of all processes. All processes must call this together."""
        return int(summed(torch.tensor(self.count, device=device)))

    def parts(
        self, counts: Sequence[int], generators: Generators, device: torch.device, *, in_each_process: bool = False
    ) -> tuple["Calibration", ...]:
        """Return disjoint parts of the examples, spread evenly over them.

        A batch that cannot be divided belongs to one part as a whole. The examples of a part are numbered from 0, as if
        nothing else had been read. Of several processes, some may have no example of a small part.

        Args:
            counts: Examples of each part, over all processes. Later parts are smaller if there are not enough.
            generators: Source of randomness.
            device: Where sums over processes are computed.
            in_each_process: Give the first part at least one example in each process, for passes of all together.
        """
        total = max(1, self.total(device))
        chosen = [self._part_of(batch, total, np.cumsum(counts), generators) for batch in self.batches]
        if in_each_process and chosen and not any((part == 0).any() for part in chosen):
            chosen[0][slice(1) if self.batches[0].divisible else slice(None)] = 0
        return tuple(self._part(number, chosen, device) for number in range(len(counts)))

    def held_out(self, generators: Generators, device: torch.device) -> list[BoolArray]:
        """Mark the held-out examples of each batch: one in eight of all."""
        total = self.total(device)
        ends = np.array([round(total / HELD_OUT)])
        return [self._part_of(batch, max(1, total), ends, generators) == 0 for batch in self.batches]

    def _part_of(self, batch: CalibrationBatch, total: int, ends: IntArray, generators: Generators) -> IntArray:
        """The part that each example of a batch belongs to; ``len(ends)`` for none."""
        if batch.divisible:
            return _parts(_shuffled(batch.numbers, total, generators), total, ends)
        size = len(batch.numbers)
        place = np.full(size, batch.numbers[0] // size)
        return _parts(place, max(1, total // size), np.where(ends > 0, np.maximum(ends // size, 1), 0))

    def _part(self, number: int, chosen: Sequence[IntArray], device: torch.device) -> "Calibration":
        """Return one part, given the part of each example. What exceeds the memory is again written to disk."""
        given = [(batch, np.flatnonzero(part == number)) for batch, part in zip(self.batches, chosen, strict=True)]
        taken = [(batch, which) for batch, which in given if len(which)]
        numbers = _renumbered([batch.numbers[which] for batch, which in taken], device)
        batches = (replace(batch.some(at), numbers=new) for (batch, at), new in zip(taken, numbers, strict=True))
        kept = tuple(map(self._kept, regrouped(batches, self.batch_size)))
        return Calibration(kept, self.batch_size, self.storage)

    def _kept(self, batch: CalibrationBatch) -> CalibrationBatch:
        """A batch in memory or on disk; one of these batches is there already."""
        if self.storage is None or any(batch.inputs is own.inputs for own in self.batches):
            return batch
        return _changed(batch, self.storage.keep)


def read(
    network: Network,
    data: Iterable[Any],
    example_inputs: Batch,
    *,
    labels: bool,
    batch_size: int,
    memory_bytes: float,
    check: Callable[[Batch], None] = lambda _: None,
    whole: bool = False,
) -> Calibration:
    """Read the caller's data, once.

    Args:
        network: The network that they are for.
        data: Batches of inputs, and perhaps more.
        example_inputs: What the model is called on; batches have the same form.
        labels: Keep what follows the inputs as the labels.
        batch_size: Examples of a batch.
        memory_bytes: Examples beyond this size are written to disk.
        check: Called with the inputs of each of the caller's batches; with `whole`, of each batch that is kept.
        whole: Keep only batches of as many examples as the example inputs have, and never divide them.

    Raises:
        CalibrationError: If the data are no iterable of batches, or a batch does not fit. Batches of other sizes than
            the example inputs are tried on the network. With `whole`, also if there are too few for one batch.
    """
    refuse_no_batches(data)
    storage = Storage(memory_bytes)
    known = {_form(example_inputs)}

    def batches() -> Iterator[CalibrationBatch]:
        before, full, (process_index, n_processes) = 0, 0, world()
        held_by_caller = isinstance(data, list | tuple)
        for batch in data:
            inputs, given = inputs_like(example_inputs, batch)
            _refuse_misfit(network, inputs, example_inputs, known)
            if not whole:
                check(inputs)
            size = example_count(inputs)
            full = max(full, size)  # only the last batch of all is smaller
            start = before * n_processes + process_index * full
            before += size
            found = CalibrationBatch(inputs, _as_labels(given) if labels else None, start + np.arange(size))
            # a generator may reuse the same tensors for the next batch before this one is joined
            yield found if held_by_caller else _changed(found, Tensor.clone)

    size = example_count(example_inputs) if whole else batch_size

    def kept() -> Iterator[CalibrationBatch]:
        for number, batch in enumerate(regrouped(batches(), size)):
            if not whole:
                yield batch
            elif len(batch.numbers) == size:
                check(batch.inputs)
                yield replace(batch, whole=True)
            elif not number:
                raise CalibrationError(
                    f"the forward of the network loops over examples, or fails on some numbers of them, so it is "
                    f"called on {size} at a time, as many as example_inputs have; given {len(batch.numbers)} examples; "
                    "give more, or fewer in example_inputs"
                )

    with network.evaluating():  # a data loader takes its seed from torch's generator
        return Calibration(tuple(_changed(batch, storage.keep) for batch in kept()), size, storage)


def regrouped(batches: Iterable[CalibrationBatch], size: int) -> Iterator[CalibrationBatch]:
    """Regroup examples, in their order, in batches of one size. Examples of different form are not mixed.

    A batch that cannot be divided stays as it is.
    """
    waiting: dict[Hashable, list[CalibrationBatch]] = {}
    for batch in batches:
        if not batch.divisible:
            yield batch
            continue
        held = waiting.setdefault(form_of((batch.inputs, batch.labels)), [])
        start = 0
        while start < len(batch.numbers):
            stop = min(start + size - _count(held), len(batch.numbers))
            held.append(batch.some(np.arange(start, stop)))
            start = stop
            if _count(held) == size:
                yield _joined(held)
                held.clear()
    yield from (_joined(held) for held in waiting.values() if held)


def refuse_no_batches(data: Any) -> None:
    """Refuse data that are not an iterable of batches.

    Raises:
        CalibrationError: If they are not.
    """
    if isinstance(data, Tensor | Mapping | str) or not isinstance(data, Iterable):
        raise CalibrationError(
            f"calibration_data must be an iterable of batches, such as a list or a data loader; given a "
            f"{type(data).__name__}; wrap a single batch in a list"
        )


def _renumbered(numbers: Sequence[IntArray], device: torch.device) -> list[IntArray]:
    """The numbers of examples in some batches, made consecutive in the same order over all processes."""
    size = largest(max((int(each.max()) + 1 for each in numbers), default=0), device)
    present = torch.zeros(size, dtype=torch.int64)
    for each in numbers:
        present[torch.from_numpy(each)] = 1
    present = summed(present.to(device)).cpu()
    before = (present.cumsum(0) - present).numpy()
    return [before[each] for each in numbers]


def _shuffled(numbers: IntArray, total: int, generators: Generators) -> IntArray:
    """Shuffle numbers within blocks of consecutive ones, because data are often sorted by class or alternate."""
    blocks = numbers // _BLOCK
    places = numbers.copy()
    for block in np.unique(blocks):
        start = block * _BLOCK
        order = generators("examples", int(block)).permutation(min(_BLOCK, max(1, total - start)))
        inside = blocks == block
        places[inside] = start + order[(numbers[inside] - start) % len(order)]
    return places


def _parts(places: IntArray, total: int, ends: IntArray) -> IntArray:
    """The part that each of `total` places belongs to; ``len(ends)`` for none. `ends` are cumulated sizes of the parts.

    Each part has exactly its size. Steps of the golden ratio around a circle spread it evenly over the places.
    """
    return np.searchsorted(ends, places * coprime_step(total) % total, side="right")


def _count(parts: Iterable[CalibrationBatch]) -> int:
    return sum(len(part.numbers) for part in parts)


def _joined(parts: Sequence[CalibrationBatch]) -> CalibrationBatch:
    inputs, labels = concatenated([(part.inputs, part.labels) for part in parts])
    return CalibrationBatch(inputs, labels, np.concatenate([part.numbers for part in parts]))


def _changed(batch: CalibrationBatch, change: Callable[[Tensor], Tensor]) -> CalibrationBatch:
    """The same examples in other tensors."""
    inputs, labels = tree_map(
        lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, (batch.inputs, batch.labels)
    )
    return replace(batch, inputs=inputs, labels=labels)


def _as_labels(given: Any) -> Any:
    """Labels as a tensor, if they can be converted to one."""
    if given is None or isinstance(given, Tensor):
        return given
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        return given


def _refuse_misfit(network: Network, inputs: Batch, example: Batch, known: set[str]) -> None:
    """Refuse a batch that the network does not run on.

    Raises:
        CalibrationError: If it has no examples, or other numbers of dimensions, or the network fails on it.
    """
    form = _form(inputs)
    if example_count(inputs) and form in known:
        return
    text = f"a calibration batch of {form} does not fit the network, which runs on {_form(example)}"
    if not example_count(inputs):
        raise CalibrationError(f"{text}: it has no examples; leave empty batches out")
    if _dimensions(inputs) != _dimensions(example):
        raise CalibrationError(f"{text}; give batches with as many tensors and dimensions, the first for examples")
    try:
        call(network.model, network.placed(inputs))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise CalibrationError(f"{text}: {error}") from error
    known.add(form)


def _form(batch: Batch) -> str:
    """Shapes for any number of examples, and types: one for all floating-point types, which are cast."""
    parts = []
    for tensor in tensors_of(as_arguments(batch)):
        kind = "floats" if tensor.is_floating_point() else str(tensor.dtype)
        parts.append(f"{kind} ({', '.join(['batch', *map(str, tensor.shape[1:])])})")
    return ", ".join(parts)


def _dimensions(batch: Batch) -> list[int]:
    return [tensor.ndim for tensor in tensors_of(as_arguments(batch))]
