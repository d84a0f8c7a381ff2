"""How a budget is divided among the sites, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scionet.choices.checking import Checked, Count, CountOrZero, by_name

WidthsName = Literal["uniform", "error_curves", "sensitivity", "isomorphic", "global", "whole"]


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
    """Widths at which each site is measured: half of its units, a quarter, and so on."""
    search: CountOrZero = 0
    """Number of other divisions of the budget to try, each by a whole walk. The division whose output is nearest to the
    dense network's on held-out examples is kept."""


@dataclass(frozen=True, repr=False)
class Isomorphic(Checked):
    """Let units compete by their scores among sites of the same role, with one density for all roles."""


@dataclass(frozen=True, repr=False)
class Global(Checked):
    """Let all units of the network compete by their scores, so that one threshold holds for all sites.

    For scores that mean the same at every site, such as the scales that network slimming trains.
    """


@dataclass(frozen=True, repr=False)
class Whole(Checked):
    """Keep all units, and meet the budget by dropping residual branches alone."""


@dataclass(frozen=True, repr=False)
class Widths(Checked):
    """Keep given numbers of units, instead of a budget.

    The plan of another network of the same architecture has such numbers: ``Widths(result.plan.widths)``.
    """

    units: Mapping[str, Count]
    """The number of units that a site keeps, by the site's name. Sites that are not named stay whole."""


WidthRule = Uniform | ErrorCurves | Sensitivity | Isomorphic | Global | Whole | Widths
WIDTHS = by_name(Uniform, ErrorCurves, Sensitivity, Isomorphic, Global, Whole, Widths)
