"""The data of one seed: training, calibration, validation and test examples."""

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
        calibration: Labelled batches that pruning methods use.
        validation: Examples on which learning rates are chosen.
        test: Batches on which accuracy is measured.
        train: The part of the source that training examples come from.
        indices: Indices of the training examples in that part.
    """

    calibration: tuple[Any, ...]
    validation: Examples
    test: Batches
    train: Part
    indices: Indices

    @classmethod
    def of(cls, data: Data, folder: Path, seed: int) -> "RunData":
        """Sample all parts. The test examples are the same for every seed.

        Args:
            data: The source and the sizes of the parts.
            folder: Folder that the paths of the source are relative to.
            seed: Seed of the sampling.

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
        """The training examples, augmented as the recipe says."""
        kind = recipe.augmentation
        chosen = None if kind == "none" else Augmentation(kind, recipe.padding, recipe.smallest_crop)
        return self.train.choose(self.indices, chosen)


def _test(own: Part | None, train: Part, data: Data) -> tuple[Batches, Indices]:
    """Return the test batches, and the indices that are left of the training part.

    Raises:
        InvalidSetting: If the source has no test part and `test` is 0, or it has one and `test` is not 0.
    """
    if (own is None) != (data.test > 0):
        has = "has no test part: give as `test` how many examples to hold out" if own is None else "has a test part"
        raise InvalidSetting(f"{data.source} {has}; given test = {data.test}")
    if own is not None:
        return Batches(own.choose(np.arange(own.count), None), data.batch_size), np.arange(train.count)
    parts = partition(train.count, {"test": data.test}, 0)
    return Batches(train.choose(parts["test"], None), data.batch_size), parts["train"]
