"""How a budget is divided among the sites, as data."""

from dataclasses import dataclass
from typing import Literal

from scionet.choices.checking import Checked, Count, CountOrZero, by_name

WidthsName = Literal["uniform", "error_curves", "sensitivity", "isomorphic"]


@dataclass(frozen=True, repr=False)
class Uniform(Checked):
    """Give every site the same density. Needs no data."""


@dataclass(frozen=True, repr=False)
class ErrorCurves(Checked):
    """Minimise the summed error at the consumers, from the error of each site at every width."""


@dataclass(frozen=True, repr=False)
class Sensitivity(Checked):
    """Measure how much pruning each site changes the network's output, and solve for the widths that change it least.

    The default when calibration data are used.
    """

    examples: Count = 256
    """The most calibration examples that are held out to measure the sensitivity on; at most one in eight of all."""
    widths_per_site: Count = 1
    """Widths of each site at which it is measured: half of the site, a quarter, and so on."""
    search: CountOrZero = 0
    """Other ways to divide the budget that are tried by a whole walk each. The one whose output is nearest to the dense
    network's on held-out examples is kept."""


@dataclass(frozen=True, repr=False)
class Isomorphic(Checked):
    """Let units compete by their scores among sites of the same role, with one density for all roles."""


WidthRule = Uniform | ErrorCurves | Sensitivity | Isomorphic
WIDTHS = by_name(Uniform, ErrorCurves, Sensitivity, Isomorphic)
