"""The data of one seed: what is learnt from, what methods look at, what decides, and what is measured on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scionet.bench.experiment.parts import Data
from scionet.data.augmentation import Augmentation
from scionet.data.sampling import partition, sampled
from scionet.data.sources import Batches, Part, read_source
from scionet.errors import InvalidSetting
from scionet.seeds import seeded
from scionet.training.loading import Examples
from scionet.training.recipes import Recipe

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RunData:
    """The data of one seed.

    Attributes:
        calibration: Batches that methods look at, with labels.
        validation: Examples that learning rates are chosen by.
        test: Batches to measure on.
        train: The part that training examples come from.
        indices: Which of it are learnt from.
    """

    calibration: tuple[Any, ...]
    validation: Examples
    test: Batches
    train: Part
    indices: Indices

    @classmethod
    def of(cls, data: Data, folder: Path, seed: int) -> "RunData":
        """Generators the parts. The test examples are the same for every seed.

        Args:
            data: What to draw.
            folder: What paths of the source are relative to.
            seed: Seed of the draw.

        Raises:
            InvalidSetting: If there are too few examples, or no test part.
        """
        found = read_source(data.source, data.preprocessing, folder)
        test, rest = _test(found.test, found.train, data)
        if data.calibration < 1 or data.validation < 0 or data.calibration + data.validation > len(rest):
            raise InvalidSetting(
                f"{data.source} leaves {len(rest)} training examples; calibration ({data.calibration}) is 1 or more, "
                f"validation ({data.validation}) 0 or more, both together at most their number"
            )
        parts = partition(len(rest), {"validation": data.validation}, seed)
        learnt = sampled(rest[parts["train"]], data.train, seeded(seed)("bench", "train"), "training examples")
        seen = sampled(learnt, data.calibration, seeded(seed)("bench", "calibration"), "examples to calibrate on")
        return cls(
            tuple(Batches(found.train.choose(seen, None), data.batch_size)),
            found.train.choose(rest[parts["validation"]], None),
            test,
            found.train,
            learnt,
        )

    def training(self, recipe: Recipe) -> Examples:
        """Examples to learn from, augmented as the recipe says."""
        kind = recipe.augmentation
        chosen = None if kind == "none" else Augmentation(kind, recipe.padding, recipe.smallest_crop)
        return self.train.choose(self.indices, chosen)


def _test(own: Part | None, train: Part, data: Data) -> tuple[Batches, Indices]:
    """The test batches, and what the training part has left.

    Raises:
        InvalidSetting: If there is neither a test part nor a number of examples to keep apart as one.
    """
    if (own is None) != (data.test > 0):
        has = "has no test part: say by `test` how many examples to keep apart" if own is None else "has a test part"
        raise InvalidSetting(f"{data.source} {has}; given test = {data.test}")
    if own is not None:
        return Batches(own.choose(np.arange(own.count), None), data.batch_size), np.arange(train.count)
    parts = partition(train.count, {"test": data.test}, 0)
    return Batches(train.choose(parts["test"], None), data.batch_size), parts["train"]
