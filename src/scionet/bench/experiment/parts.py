"""What an experiment is made of: networks, data, competitors of one's own, and its runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from scionet.bench.experiment.arms import Arm
from scionet.bench.experiment.competitors import Competitor
from scionet.choices.settings import repair_from, widths_from
from scionet.data.images import Preprocessing
from scionet.methods.registry import method_from


@dataclass(frozen=True)
class NetworkSource:
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
    """A competitor of one's own: a method with its widths and its repair.

    Attributes:
        label: Name in tables.
        method: A name, ``package.module:function``, or a table with a name and parameters.
        widths: A name, or a table with a name and parameters; None for the default.
        repair: Names, or tables with a name and parameters; None for the default.
        summary: What it does, in one line.
    """

    label: str
    method: Any
    widths: Any = None
    repair: Any = None
    summary: str = ""

    @property
    def competitor(self) -> Competitor:
        """The competitor.

        Raises:
            InvalidSetting: If a name or a parameter is not allowed.
        """
        widths = None if self.widths is None else widths_from(self.widths)
        repair = None if self.repair is None else repair_from(self.repair)
        return Competitor(self.label, method_from(self.method), widths, repair, self.summary)


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
    stock: NetworkSource | None
    budget: str
    seed: int

    @property
    def method(self) -> str:
        """What tables call it."""
        if self.competitor is not None:
            return self.competitor.label if self.arm.name == "as cut" else f"{self.competitor.label} + {self.arm.name}"
        return self.arm.name if self.stock is None else f"{self.stock.name} + {self.arm.name}"
