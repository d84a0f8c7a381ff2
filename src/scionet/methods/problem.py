"""Problem: a network, the data to calibrate on, and what widths cost."""

from dataclasses import dataclass

from scionet.budget.costs import CostModel
from scionet.methods.calibration.calibration import Calibration
from scionet.network.network import Network
from scionet.network.sites import Sites


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method works on.

    Attributes:
        network: The dense network.
        calibration: Examples, with labels if the method uses them; none where it needs no data.
        costs: What widths cost.
    """

    network: Network
    calibration: Calibration
    costs: CostModel

    @property
    def sites(self) -> Sites:
        """The network's sites."""
        return self.network.sites
