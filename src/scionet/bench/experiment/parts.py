"""What an experiment is made of: networks, data, competitors of one's own, and its runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from scionet.bench.experiment.arms import Arm
from scionet.bench.experiment.competitors import Competitor
from scionet.data.images import Preprocessing


@dataclass(frozen=True)
class Network:
    """A network by its factory.

    Attributes:
        factory: Such as ``scionet:resnet20``.
        arguments: Of the factory.
        weights: File of its weights, relative to the folder of the data; without it, it is trained.
        macs: What a forward pass of one example must cost, if that is to be checked before anything is run.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    weights: str | None = None
    macs: int | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.factory.partition(":")[2]


@dataclass(frozen=True)
class Data:
    """Labelled data and their parts. Validation and test examples are apart from all others and from each other.

    Attributes:
        source: See `scionet.data.sources.read_source`.
        calibration: Examples that methods look at, drawn from the training part.
        validation: Examples of the training part that learning rates are chosen by.
        test: Examples of the training part to measure on, if the source has no test part.
        train: Examples to learn from; all that are left by default.
        batch_size: Examples of a batch of calibration and evaluation.
        preprocessing: How pictures become inputs.
    """

    source: str
    calibration: int
    validation: int
    test: int = 0
    train: int | None = None
    batch_size: int = 128
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


@dataclass(frozen=True)
class CustomCompetitor:
    """A competitor that is none of ours: a method with its settings.

    Attributes:
        label: Name in tables.
        method: Registry name.
        settings: The method's settings.
        summary: What it does, in one line.
    """

    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    summary: str = ""


@dataclass(frozen=True)
class Trial:
    """One run of an experiment.

    Attributes:
        arm: What is done.
        competitor: Whose architecture, for arms of pruned networks.
        stock: The smaller network, for arms of such.
        budget: What may remain.
        seed: Root of all randomness.
    """

    arm: Arm
    competitor: Competitor | None
    stock: Network | None
    budget: str
    seed: int

    @property
    def method(self) -> str:
        """What tables call it."""
        if self.competitor is not None:
            return self.competitor.label if self.arm.name == "as cut" else f"{self.competitor.label} + {self.arm.name}"
        return self.arm.name if self.stock is None else f"{self.stock.name} + {self.arm.name}"
