"""The examples of every step, which depend only on the seed and the number of the epoch.

A training that resumes after step n therefore uses the same examples as an uninterrupted one, without reading the
earlier ones again. The examples of a step are the same for any number of processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scionet.errors import TrainingError
from scionet.seeds import root, seeded

SeededIndex = tuple[int, int]
"""An example to be read: its index, and the seed of its random augmentation."""


@dataclass(frozen=True)
class Order:
    """The order of the training data.

    Attributes:
        examples: Number of examples.
        batch_size: Examples of one step, over all processes.
        seed: Seed of the order and of random augmentation.
    """

    examples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        """Check that there are enough examples for a batch.

        Raises:
            TrainingError: If there are not.
        """
        if self.examples < self.batch_size:
            raise TrainingError(
                f"{self.examples} training examples do not fill a batch of {self.batch_size}; give more data, or a "
                "batch_size of at most their number"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of an epoch; the examples that are left over differ from epoch to epoch."""
        return self.examples // self.batch_size

    def epoch(self, number: int) -> NDArray[np.int64]:
        """All indices, in the order of an epoch (from 0)."""
        return seeded(self.seed)("order", number).permutation(self.examples)

    def batches(self, start: int, stop: int) -> Iterator[list[SeededIndex]]:
        """The examples of each step from `start` to `stop` (exclusive)."""
        epoch, indices, first_seed = -1, list[int](), 0
        for step in range(start, stop):
            number, place = divmod(step, self.steps_per_epoch)
            if number != epoch:
                epoch, indices, first_seed = number, self.epoch(number).tolist(), root(self.seed, "examples", number)
            chosen = indices[place * self.batch_size : (place + 1) * self.batch_size]
            yield [(index, first_seed + index) for index in chosen]

    def parts(
        self, start: int, stop: int, count: int, process_index: int, process_count: int
    ) -> Iterator[list[SeededIndex]]:
        """The share of one process, `count` lists for each step.

        Args:
            start: First step.
            stop: The step after the last one.
            count: Parts into which each process splits its share of a batch.
            process_index: Index of this process.
            process_count: Number of processes.

        Raises:
            TrainingError: If a batch cannot be split into equal parts, whose gradients alone average to that of the
                batch.
        """
        if self.batch_size % (count * process_count):
            raise TrainingError(
                f"a batch of {self.batch_size} cannot be split equally among {process_count} processes, with {count} "
                f"parts for each; give a batch_size that is a multiple of {count * process_count}"
            )
        length = self.batch_size // (count * process_count)
        for batch in self.batches(start, stop):
            for part in range(process_index * count, (process_index + 1) * count):
                yield batch[part * length : (part + 1) * length]
