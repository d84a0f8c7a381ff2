"""How the weights of a pruned network are repaired, as data: a list of steps."""

from dataclasses import dataclass
from typing import Annotated, Literal

from scionet.choices.checking import Checked, Count, Range, by_name

RepairName = Literal["refit", "recalibrate", "reconstruct"]


@dataclass(frozen=True, repr=False)
class Refit(Checked):
    """Refit every consumer's weights on the kept units by least squares, during the walk."""

    shrinkage: Annotated[float, Range(0, 1)] | Literal["held_out"] | None = None
    """How far the refit is pulled towards the dense weights. None decides by the numbers of inputs and rows,
    "held_out" for each consumer by the error on one held-out example in eight."""
    asymmetric: bool = True
    """Take inputs from the network pruned so far and targets from the dense one, so that later layers repair earlier
    damage. Otherwise both come from the dense network."""
    shortcuts: bool = True
    """Let the consumer in front of a residual sum also repair the damage in the shortcut."""


@dataclass(frozen=True, repr=False)
class Recalibrate(Checked):
    """Re-measure the statistics of every BatchNorm in the pruned network."""


@dataclass(frozen=True, repr=False)
class Reconstruct(Checked):
    """Train the remaining weights to match the dense network's outputs and features, without labels.

    One calibration example in eight is held out, and the state that is best on those is kept.
    """

    steps: Count = 300
    """Gradient steps."""
    learning_rate: Annotated[float, Range(0, inside=True)] = 1e-3
    """Learning rate of the first step; it decays to 0 along a cosine."""


RepairStep = Refit | Recalibrate | Reconstruct
REPAIR = by_name(Refit, Recalibrate, Reconstruct)
