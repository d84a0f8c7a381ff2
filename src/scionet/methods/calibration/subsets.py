"""Some of the calibration examples, for what does not need all of them.

Data often come sorted by class, so that the first ones are of one class: every batch gives its share.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from scionet.network.calling import divides, example_count, place_of, some_of, undisturbed
from scionet.network.multiprocess import overall_index, summed, world
from scionet.seeds import Generators
from scionet.selection.objective import IntArray

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class Subset:
    """Some examples of batches, iterable again and again.

    Attributes:
        batches: The batches, of the same sizes each time.
        picks: Which examples of each batch, ascending.
    """

    batches: Iterable[Any]
    picks: tuple[IntArray, ...]

    @property
    def count(self) -> int:
        """Number of examples."""
        return sum(map(len, self.picks))

    def __iter__(self) -> Iterator[Any]:
        """Batches of what was picked; those of which nothing was are left out."""
        for batch, picked in zip(self.batches, self.picks, strict=False):
            if len(picked):
                yield _taken(batch, picked)


def subsets(
    model: nn.Module, batches: Iterable[Any], counts: Sequence[int], generators: Generators
) -> tuple[Subset, ...]:
    """Disjoint parts of the examples, drawn within each batch. From each process the first part has at least one.

    A batch that cannot be divided, since not all its tensors have examples in front, is taken as a whole when its turn
    comes. Where there are several processes, their batches are taken to be of one size.

    Args:
        model: Whose calibration data they are.
        batches: The batches; counted by a pass over them.
        counts: Examples of each part, over all processes; later parts get less where there are not enough.
        generators: Which examples of a batch.
    """
    with undisturbed(model):  # a data loader takes its seed from torch's generator
        sizes = [(example_count(batch), divides(batch)) for batch in batches]
    own = torch.tensor(sum(size for size, _ in sizes), device=place_of(model)[0])
    total, (rank, n_processes) = max(int(summed(own)), 1), world()
    shares, before = list[list[IntArray]](), 0
    for number, (size, divisible) in enumerate(sizes):
        start = before * n_processes + rank * size
        if divisible:
            order = generators("examples", overall_index(number)).permutation(size)
            part = _parts(start + np.arange(size), total, np.cumsum(counts))
        else:
            order = np.arange(size)
            part = _parts(np.full(size, start // size), max(total // size, 1), np.cumsum(counts) // size)
        shares.append([np.sort(order[part == place]) for place in range(len(counts))])
        before += size
    parts = [list(part) for part in zip(*shares, strict=True)]
    if parts and not any(map(len, parts[0])):
        size, divisible = sizes[0]
        parts[0][0] = np.arange(1 if divisible else size)
    return tuple(Subset(batches, tuple(part)) for part in parts or [[] for _ in counts])


def _parts(places: IntArray, total: int, ends: IntArray) -> IntArray:
    """Which part each of `total` places falls to, numbers `ends` ascending; ``len(ends)`` where to none.

    Each part has exactly its number, spread evenly: steps of the golden ratio round a circle come near no place twice.
    """
    step = max(1, round(total * _GOLDEN))
    while math.gcd(step, total) > 1:
        step += 1
    return np.searchsorted(ends, places * step % total, side="right")


def _taken(batch: Any, picked: IntArray) -> Any:
    """Some examples of a batch."""
    if len(picked) == example_count(batch):
        return batch
    return some_of(batch, torch.from_numpy(picked))
