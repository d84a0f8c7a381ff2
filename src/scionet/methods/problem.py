"""Problem: a network, its calibration data, and its cost at any widths."""

from dataclasses import dataclass

from scionet.budget.costs import CostModel
from scionet.methods.calibration.calibration import Calibration
from scionet.network.network import Network
from scionet.network.sites import Sites


@dataclass(frozen=True, eq=False)
class Problem:
    """The input of a method.

    Attributes:
        network: The dense network.
        calibration: Examples, with labels if the method uses them; empty if it needs no data.
        costs: The cost of the network at any widths.
        held_out: Further examples, which nothing is fitted on; None lets the method hold out some of the calibration.
    """

    network: Network
    calibration: Calibration
    costs: CostModel
    held_out: Calibration | None = None

    @property
    def sites(self) -> Sites:
        """The network's sites."""
        return self.network.sites
