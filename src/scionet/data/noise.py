"""Label noise: some examples get another label, and their indices are returned."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from scionet.errors import InvalidSetting, unknown
from scionet.seeds import seeded
from scionet.typing import IntArray

NoiseKind = Literal["uniform", "wrong"]


@dataclass(frozen=True)
class LabelNoise:
    """Symmetric noise on a random fraction of the labels.

    Attributes:
        fraction: Fraction of the examples that get a new label, from 0 to 1. The number of examples is rounded.
        kind: ``"uniform"``: the new label is any class, so one in `classes` new labels is the old one. ``"wrong"``: the
            new label is any other class.
        seed: Seed of the examples and of their new labels.
    """

    fraction: float
    kind: NoiseKind = "wrong"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidSetting: If the fraction is not from 0 to 1, or the kind is unknown.
        """
        if not 0 <= self.fraction <= 1:
            raise InvalidSetting(f"the fraction of noisy labels must be from 0 to 1; given {self.fraction}")
        if self.kind not in get_args(NoiseKind):
            raise unknown("kind of label noise", self.kind, get_args(NoiseKind))

    def apply(self, labels: IntArray, classes: int) -> "NoisyLabels":
        """Give some examples new labels.

        Args:
            labels: Class of each example, shape ``(examples,)``.
            classes: Number of classes.

        Raises:
            InvalidSetting: If there are fewer than two classes, or a label is out of range.
        """
        if classes < 2 or np.any((labels < 0) | (labels >= classes)):
            raise InvalidSetting(f"label noise needs two classes or more, and labels in 0..{classes - 1}")
        rng = seeded(self.seed)("label noise")
        chosen = np.sort(rng.permutation(len(labels))[: round(self.fraction * len(labels))])
        noisy = labels.copy()
        if self.kind == "uniform":
            noisy[chosen] = rng.integers(classes, size=len(chosen))
        else:
            noisy[chosen] = (labels[chosen] + rng.integers(1, classes, size=len(chosen))) % classes
        return NoisyLabels(noisy, np.flatnonzero(noisy != labels))


@dataclass(frozen=True, eq=False)
class NoisyLabels:
    """Labels with noise.

    Attributes:
        labels: Class of each example, shape ``(examples,)``.
        noisy: Indices of the examples whose label is wrong, ascending. Loss and accuracy on noisy and on clean examples
            can be measured apart.
    """

    labels: IntArray
    noisy: IntArray

    @property
    def clean(self) -> IntArray:
        """Indices of the other examples, ascending."""
        return np.setdiff1d(np.arange(len(self.labels)), self.noisy)
