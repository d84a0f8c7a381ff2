"""The parts of an experiment: networks, data, custom competitors, and its runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from scionet.bench.experiment.arms import Arm
from scionet.bench.experiment.competitors import PREDEFINED, Competitor
from scionet.bench.experiment.mask_competitors import MaskCompetitor
from scionet.bench.experiment.shrink_competitors import ShrinkCompetitor
from scionet.choices.checking import refuse
from scionet.choices.settings import depth_from, repair_from, widths_from
from scionet.data.images import Preprocessing
from scionet.methods.registry import method_from


@dataclass(frozen=True)
class NetworkSource:
    """A network, given by its factory.

    Attributes:
        factory: Name of the factory, such as ``scionet:resnet20``.
        arguments: Arguments of the factory.
        weights: File of its weights, relative to the folder of the data. Without one, the network is trained.
        macs: Expected MACs of a forward pass of one example, checked before the first run; None checks nothing.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    weights: str | None = None
    macs: int | None = None

    @property
    def name(self) -> str:
        """Name in tables."""
        return self.factory.partition(":")[2]


@dataclass(frozen=True)
class Predefined:
    """Widths that are known before anything is trained, of a narrower network of the same family or by name of a site.

    Attributes:
        budget: The budget of the experiment that these widths meet, under which their runs are recorded.
        factory: Factory of the narrower network; its parameters have the names of the dense network's.
        arguments: Arguments of the factory.
        units: In place of a factory, the number of units that each site keeps; others stay whole.
    """

    budget: str
    factory: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    units: Mapping[str, int] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        """Check that there is either a network or widths.

        Raises:
            InvalidSetting: If not.
        """
        refuse(self, {"predefined has either a factory or units": (self.factory is None) != (self.units is None)})


@dataclass(frozen=True)
class Data:
    """Labelled data and the sizes of their parts. Validation, test and training examples are disjoint.

    Attributes:
        source: See `scionet.data.sources.read_source`.
        calibration: Number of calibration examples, sampled from the training examples.
        validation: Number of examples held out from the training part, on which learning rates are chosen.
        test: Number of examples held out from the training part as test examples, if the source has no test part.
        train: Number of training examples; by default all that are left.
        batch_size: Batch size of calibration and evaluation.
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
    """A competitor that an experiment defines: a method with its widths and its repair.

    Attributes:
        label: Name in tables.
        method: A name, ``package.module:function``, or a table with a name and parameters.
        widths: A name, or a table with a name and parameters; "predefined" for those of the experiment; None for the
            default.
        repair: Names, or tables with a name and parameters; None for the default.
        summary: Description in one line.
        depth: Names of residual branches to drop, the name of a rule, or a table with a name and parameters; None for
            what the experiment's settings say.
    """

    label: str
    method: Any
    widths: Any = None
    repair: Any = None
    summary: str = ""
    depth: Any = None

    @property
    def competitor(self) -> Competitor:
        """The competitor.

        Raises:
            InvalidSetting: If a name or a parameter is not allowed.
        """
        widths = self.widths if self.widths in (None, PREDEFINED) else widths_from(self.widths)
        repair = None if self.repair is None else repair_from(self.repair)
        depth = depth_from(self.depth)
        return Competitor(self.label, method_from(self.method), widths, repair, self.summary, depth)


@dataclass(frozen=True)
class Trial:
    """One run of an experiment.

    Attributes:
        arm: The arm.
        competitor: The competitor whose pruned network or whose masks are used, for arms that need one.
        stock: The smaller network, for stock arms.
        budget: The budget.
        seed: Root of all randomness.
    """

    arm: Arm
    competitor: Competitor | MaskCompetitor | ShrinkCompetitor | None
    stock: NetworkSource | None
    budget: str
    seed: int

    @property
    def method(self) -> str:
        """Name in tables."""
        if self.competitor is not None:
            return self.competitor.label if self.arm.name == "as cut" else f"{self.competitor.label} + {self.arm.name}"
        return self.arm.name if self.stock is None else f"{self.stock.name} + {self.arm.name}"
