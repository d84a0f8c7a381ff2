"""Which examples every step sees, and in what order: a function of the seed and the number of the epoch alone.

So a training that goes on after step n sees what it would have seen without a break, without passing over data, and the
examples of a step are the same for any number of processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scionet.errors import TrainingError
from scionet.seeds import root, seeded

Ticket = tuple[int, int]
"""An example to be read: its index, and the seed of what is done to it at random."""


@dataclass(frozen=True)
class Order:
    """The order of the training data.

    Attributes:
        examples: Number of examples.
        batch_size: Examples of one step, over all processes.
        seed: Root of the order and of what is done to examples at random.
    """

    examples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        """Check that there is a batch.

        Raises:
            TrainingError: If there is not.
        """
        if self.examples < self.batch_size:
            raise TrainingError(
                f"{self.examples} training examples do not fill a batch of {self.batch_size}; give more data, or a "
                "batch_size of at most their number"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of an epoch; the examples that are left over are others in each."""
        return self.examples // self.batch_size

    def epoch(self, number: int) -> NDArray[np.int64]:
        """All indices, in the order of that epoch."""
        return seeded(self.seed)("order", number).permutation(self.examples)

    def batches(self, start: int, stop: int) -> Iterator[list[Ticket]]:
        """The examples of each step from `start` up to, without, `stop`."""
        epoch, indices, first = -1, list[int](), 0
        for step in range(start, stop):
            number, place = divmod(step, self.steps_per_epoch)
            if number != epoch:
                epoch, indices, first = number, self.epoch(number).tolist(), root(self.seed, "examples", number)
            chosen = indices[place * self.batch_size : (place + 1) * self.batch_size]
            yield [(index, first + index) for index in chosen]

    def parts(self, start: int, stop: int, count: int, rank: int, size: int) -> Iterator[list[Ticket]]:
        """The part of one process, `count` lists for each step.

        Args:
            start: First step.
            stop: The step after the last one.
            count: Parts in which each process takes its share of a batch.
            rank: Number of this process.
            size: Number of processes.

        Raises:
            TrainingError: If a batch cannot be dealt out in equal parts, which alone have the gradient of the whole as
                their mean.
        """
        if self.batch_size % (count * size):
            raise TrainingError(
                f"a batch of {self.batch_size} cannot be dealt out equally to {size} processes, in {count} parts for "
                f"each; give a batch_size that is a multiple of {count * size}"
            )
        length = self.batch_size // (count * size)
        for batch in self.batches(start, stop):
            for part in range(rank * count, (rank + 1) * count):
                yield batch[part * length : (part + 1) * length]
