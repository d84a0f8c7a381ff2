"""Recipes: the hyperparameters of a training. Imported without torch, so that the command line starts fast.

A named recipe is a subclass with other defaults. Where a paper's text and code differ, it follows the code.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from scionet.choices.checking import FrozenDict, refuse

Optimiser = Literal[
    "sgd", "adam", "adamw", "adamax", "nadam", "radam", "adagrad", "adadelta", "rmsprop", "rprop", "asgd", "grda"
]
"""Optimisers of torch whose state consists of tensors with the parameter's shape and of numbers; and gRDA."""
Schedule = Literal["cosine", "step", "constant"]
AugmentationName = Literal["none", "shift", "zoom"]


@dataclass(frozen=True)
class Recipe:
    """A fine-tuning of a few epochs: SGD with Nesterov momentum, the learning rate falling to 0 along a cosine."""

    epochs: float = 10
    """Passes through the training data; a fraction is allowed."""
    batch_size: int = 128
    """Examples of one step, over all processes. The last, smaller batch of an epoch is left out."""
    optimiser: Optimiser = "sgd"
    """Optimiser: those of torch by name, or grda (SGD with a soft threshold that grows with time)."""
    optimiser_settings: Mapping[str, Any] = field(default_factory=FrozenDict)
    """Further hyperparameters of the optimiser by their names in torch, such as betas; grda needs c and mu."""
    learning_rate: float = 0.01
    """Largest learning rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = True
    """Use Nesterov momentum in SGD."""
    weight_decay: float = 1e-4
    """Weight decay, multiplied by the learning rate in every step."""
    decay_vectors: bool = True
    """Apply weight decay, and the threshold of grda, to one-dimensional parameters, too: biases, and scales and shifts
    of norms."""
    l1_weight: float = 0.0
    """Weight of the L1 penalty: the sum of the absolute values of all trained weights with two or more dimensions. It
    is recorded as a penalty, apart from the loss."""
    schedule: Schedule = "cosine"
    """Learning rate schedule: a cosine to 0, steps at milestones, or constant."""
    warmup_epochs: float = 0.0
    """Number of first epochs in which the learning rate rises linearly."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Schedule step: fractions of the epochs, rounded down to whole epochs, at which the learning rate falls."""
    milestone_factor: float = 0.1
    """Schedule step: factor of the learning rate at each milestone."""
    label_smoothing: float = 0.0
    """Fraction of every target that is spread over all classes."""
    clip_norm: float | None = None
    """Largest norm of the gradient; a longer gradient is scaled down to it."""
    average_decay: float | None = None
    """Decay per step of an exponential average of the weights; the network ends with the average."""
    teacher_weight: float = 0.0
    """Distillation: weight of the teacher's outputs in the loss, from 0 to 1."""
    temperature: float = 4.0
    """Distillation: temperature, by which the logits of both networks are divided."""
    features: tuple[str, ...] = ()
    """Distillation: modules whose outputs imitate those of the teacher's modules of the same names."""
    feature_weight: float = 1.0
    """Distillation: weight of their relative squared error in the loss."""
    patience: int | None = None
    """Stop after this number of epochs without a better validation; the network ends with its best weights."""
    augmentation: AugmentationName = "none"
    """Random augmentation of images: none, shift (pad, crop, flip), or zoom (crop of any size, flip)."""
    padding: int = 4
    """Augmentation shift: black pixels added on every side."""
    smallest_crop: float = 0.08
    """Augmentation zoom: smallest fraction of the image's area."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidSetting: If a value is out of range; all problems are listed.
        """
        object.__setattr__(self, "optimiser_settings", _frozen(self.optimiser_settings))
        counts = (self.batch_size, *(() if self.patience is None else (self.patience,)))
        fractions = (self.label_smoothing, self.teacher_weight)
        checks = {
            "epochs is above 0 and finite": 0 < self.epochs < math.inf,
            "batch_size and patience are whole numbers of 1 or more": all(
                isinstance(count, int) and count >= 1 for count in counts
            ),
            f"optimiser is one of {', '.join(get_args(Optimiser))}": self.optimiser in get_args(Optimiser),
            "optimiser_settings map names to numbers, truth values, None or lists of numbers": isinstance(
                self.optimiser_settings, FrozenDict
            ),
            "learning_rate, temperature and milestone_factor are above 0": min(
                self.learning_rate, self.temperature, self.milestone_factor
            )
            > 0,
            "momentum lies in [0, 1), above 0 with nesterov": 0 <= self.momentum < 1
            and (self.momentum > 0 or not self.nesterov),
            "weight_decay, l1_weight, feature_weight and padding are 0 or more": min(
                self.weight_decay, self.l1_weight, self.feature_weight, self.padding
            )
            >= 0,
            "schedule is 'cosine', 'step' or 'constant'": self.schedule in ("cosine", "step", "constant"),
            "warmup_epochs lies between 0 and epochs": 0 <= self.warmup_epochs <= self.epochs,
            "milestones ascend between 0 and 1": list(self.milestones) == sorted(self.milestones)
            and all(0 < fraction < 1 for fraction in self.milestones),
            "label_smoothing and teacher_weight lie between 0 and 1": all(0 <= each <= 1 for each in fractions),
            "clip_norm is above 0 or None": self.clip_norm is None or self.clip_norm > 0,
            "average_decay lies inside (0, 1) or is None": self.average_decay is None or 0 < self.average_decay < 1,
            "augmentation is 'none', 'shift' or 'zoom'": self.augmentation in ("none", "shift", "zoom"),
            "smallest_crop lies in (0, 1]": 0 < self.smallest_crop <= 1,
        }
        refuse(self, checks)

    @property
    def needs_teacher(self) -> bool:
        """Whether the recipe uses distillation."""
        return self.teacher_weight > 0 or bool(self.features)

    def steps(self, per_epoch: int) -> int:
        """Number of steps, with `per_epoch` of them in an epoch."""
        return max(1, round(self.epochs * per_epoch))

    def rate(self, step: int, per_epoch: int) -> float:
        """Learning rate of a step (from 0), as a fraction of the largest one.

        Cosine: (1 + cos π t) / 2 with t = step / steps after the warm-up, so that it reaches 0 after the last step
        (Loshchilov, Hutter, ICLR 2017).
        """
        rising = round(self.warmup_epochs * per_epoch)
        if step < rising:
            return (step + 1) / rising
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * (step - rising) / (self.steps(per_epoch) - rising))) / 2
        if self.schedule == "step":
            return self.milestone_factor ** sum(step >= self._epoch_of(each) * per_epoch for each in self.milestones)
        return 1.0

    def _epoch_of(self, fraction: float) -> int:
        return int(fraction * self.epochs + 1e-9)


def _frozen(settings: object) -> object:
    """Hyperparameters that cannot be changed, with tuples for lists; what is given, if it is something else."""
    if not isinstance(settings, Mapping):
        return settings
    items = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    numbers = [part for value in items.values() for part in (value if isinstance(value, tuple) else (value,))]
    plain = all(isinstance(key, str) for key in items) and all(isinstance(n, int | float | None) for n in numbers)
    return FrozenDict(items) if plain else settings


@dataclass(frozen=True)
class MobileNetFinetune(Recipe):
    """Fine-tuning of pruned MobileNets on ImageNet (Ye et al., ICML 2020, official code): the first 150 epochs."""

    epochs: float = 150
    batch_size: int = 256
    learning_rate: float = 0.1
    weight_decay: float = 4e-5
    decay_vectors: bool = False
    label_smoothing: float = 0.1
    augmentation: AugmentationName = "zoom"
    smallest_crop: float = 0.2


@dataclass(frozen=True)
class MobileNetClosing(MobileNetFinetune):
    """The last 10 epochs there, without augmentation, at about 1e-5; the code never uses its 5e-4."""

    epochs: float = 10
    learning_rate: float = 1e-5
    schedule: Schedule = "constant"
    augmentation: AugmentationName = "none"


@dataclass(frozen=True)
class RethinkingCifar(Recipe):
    """Training on CIFAR from new weights (Liu et al., ICLR 2019, official code): Scratch-E."""

    epochs: float = 160
    batch_size: int = 64
    learning_rate: float = 0.1
    nesterov: bool = False
    schedule: Schedule = "step"
    augmentation: AugmentationName = "shift"


@dataclass(frozen=True)
class RethinkingCifarFinetune(RethinkingCifar):
    """Fine-tuning on CIFAR in the same paper."""

    epochs: float = 40
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"


@dataclass(frozen=True)
class RethinkingImageNet(Recipe):
    """Training on ImageNet from new weights (Liu et al., ICLR 2019, official code): Scratch-E.

    For VGG without norms, the code uses a learning rate of 0.01.
    """

    epochs: float = 90
    batch_size: int = 256
    learning_rate: float = 0.1
    nesterov: bool = False
    schedule: Schedule = "step"
    milestones: tuple[float, ...] = (1 / 3, 2 / 3)
    augmentation: AugmentationName = "zoom"


@dataclass(frozen=True)
class RethinkingImageNetFinetune(RethinkingImageNet):
    """Fine-tuning on ImageNet in the same paper, after pruning by the L1 norm."""

    epochs: float = 20
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"


RECIPES: Mapping[str, type[Recipe]] = MappingProxyType(
    {
        "finetune": Recipe,
        "mobilenet_finetune": MobileNetFinetune,
        "mobilenet_closing": MobileNetClosing,
        "rethinking_cifar": RethinkingCifar,
        "rethinking_cifar_finetune": RethinkingCifarFinetune,
        "rethinking_imagenet": RethinkingImageNet,
        "rethinking_imagenet_finetune": RethinkingImageNetFinetune,
    }
)
"""Every recipe by name."""
