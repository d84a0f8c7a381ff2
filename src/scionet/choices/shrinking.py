"""How a network shrinks while it is trained, as data: one class for each method."""

from dataclasses import dataclass
from typing import Annotated, Literal

from scionet.choices.checking import Checked, Count, Range, by_name

Positive = Annotated[float, Range(0, inside=True)]
Fraction = Annotated[float, Range(0, 1, inside=True)]
ShrinkingName = Literal["slimming", "sparse_structures", "soft_filters", "increg", "greg1", "greg2", "directional"]
SchemeName = Literal["exponential", "linear"]
MembersName = Literal["producers", "inputs", "all"]
StructuresName = Literal["units", "branches"]


@dataclass(frozen=True, repr=False)
class Slimming(Checked):
    """Network slimming: an L1 penalty on the scales of BatchNorms; units of small scale go (Liu et al., ICCV 2017)."""

    l1_weight: Positive = 1e-4
    """Weight of the penalty: the gradient of every scale grows by this much, with the scale's sign. Published: 1e-4 for
    VGG, 1e-5 for ResNet-164 and DenseNet-40."""


@dataclass(frozen=True, repr=False)
class SparseStructures(Checked):
    """Sparse structure selection: a factor on each structure, driven to exact zeros by accelerated proximal gradient.

    Huang and Wang, ECCV 2018.
    """

    l1_weight: Positive = 0.01
    """Weight of the penalty on the factors; 0.01 is published for the blocks of ResNet-50."""
    momentum: Annotated[float, Range(0, 0.999999)] = 0.9
    """Momentum of the factors."""
    structures: StructuresName = "units"
    """What has a factor: "units", or whole residual "branches", which are then dropped."""


@dataclass(frozen=True, repr=False)
class SoftFilters(Checked):
    """Soft filter pruning: after each epoch the filters of smallest L2 norm are set to zero, and may grow again.

    He et al., IJCAI 2018.
    """

    every_epochs: Count = 1
    """Epochs from one choice of filters to the next."""


@dataclass(frozen=True, repr=False)
class IncReg(Checked):
    """Incremental regularisation: the weight decay of each unit grows or falls by its average rank.

    Wang et al., NIPS workshop 2018 and IJCNN 2019.
    """

    u: Fraction = 0.25
    """Shape of the exponential increment: its value at the symmetry point, as a fraction of the largest."""
    target: Positive = 1.0
    """Weight decay at which a unit is removed."""
    increment: Positive | None = None
    """Largest increment of one update. None takes 10 target / steps, with which the last unit goes about halfway
    through the training."""
    scheme: SchemeName = "exponential"
    """The increment as a function of the rank: exponential (IJCNN 2019), or linear (the workshop's version)."""
    every_steps: Count = 1
    """Steps from one update to the next."""
    members: MembersName = "producers"
    """The weights of a unit that decay: "producers" is its filters, biases, and the BatchNorm behind them; "inputs" its
    filters alone; "all" also the columns of its consumers."""


@dataclass(frozen=True, repr=False)
class GReg1(Checked):
    """Growing regularisation on the units that L1 picks (GReg-1; Wang et al., ICLR 2021)."""

    increment: Positive | None = None
    """Weight decay that is added in every update; 1e-4 is published. None reaches the ceiling within two fifths of the
    training."""
    ceiling: Positive = 1.0
    """Weight decay at which it stops growing."""
    every_steps: Count = 10
    """Steps from one update to the next."""
    hold: Annotated[float, Range(0, 1)] = 0.1
    """Fraction of the training between the last update and the removal."""
    members: MembersName = "producers"
    """The weights of a unit that decay, as for `IncReg`."""


@dataclass(frozen=True, repr=False)
class GReg2(GReg1):
    """Growing regularisation on all units first, which shows those to pick (GReg-2; Wang et al., ICLR 2021)."""

    pick_increment: Positive | None = None
    """Weight decay that is added in every update before the choice; 1e-5 is published. None reaches the ceiling within
    a fifth of the training."""
    pick_ceiling: Positive = 1e-2
    """Weight decay at which the units are chosen."""


@dataclass(frozen=True, repr=False)
class Directional(Checked):
    """Structured directional pruning: the optimiser moves groups to zero along flat directions of the loss.

    Derived from Li et al., 2021 (no code is published), and Chao et al., NeurIPS 2020.
    """

    c: Positive = 5e-4
    """Scale of the threshold."""
    mu: Annotated[float, Range(0, 1, inside=True)] = 0.55
    """Growth of the threshold over time; published: 0.4 to 0.7."""
    members: Literal["producers", "all"] = "producers"
    """The weights whose norm is compared with the threshold: "producers" is the scale and shift of the BatchNorm behind
    a unit, or its filter and bias if there is none; "all" is filters, biases and the columns of consumers."""


Shrinking = Slimming | SparseStructures | SoftFilters | IncReg | GReg1 | GReg2 | Directional
SHRINKING = {
    **by_name(Slimming, SparseStructures, SoftFilters, Directional),
    "increg": IncReg,
    "greg1": GReg1,
    "greg2": GReg2,
}
