"""Widths that the user gives, or full ones, checked against the network and the budget."""

from collections.abc import Mapping

from scionet.budget.allocation.ladder import in_percent
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting, UnreachableBudget, unknown


def explicit(costs: CostModel, units: Mapping[str, int], *, round_to: int = 1, min_units: int = 1) -> dict[str, int]:
    """The width of every site, where some are given.

    Args:
        costs: The cost model of the network.
        units: Units that a site keeps, by its name; sites that are not named stay whole.
        round_to: What kept widths must be multiples of, except the full width.
        min_units: The fewest units that a site may keep, except the full width.

    Raises:
        InvalidSetting: If there is no such site, it has fewer units, or a width is against the limits.
    """
    found = dict(zip(costs.names, costs.full.tolist(), strict=True))
    for name, count in units.items():
        if name not in found:
            raise unknown("site", name, found)
        full = found[name]
        if not 1 <= count <= full:
            raise InvalidSetting(f"site {name!r} has {full} units and cannot keep {count}; give 1 to {full}")
        step = 1 if costs.sites[name].unit == "head" else round_to
        if count < full and (count % step or count < min_units):
            raise InvalidSetting(
                f"site {name!r} would keep {count} units, against the limits round_to={round_to} and "
                f"min_units={min_units}; give another width, or leave the limits out"
            )
        found[name] = count
    return found


def whole(costs: CostModel, budget: Budget) -> dict[str, int]:
    """The full width of every site.

    Raises:
        UnreachableBudget: If they exceed the budget.
    """
    cost = costs.cost({})
    if not budget.met(cost, costs.dense):
        raise UnreachableBudget(
            f"the budget {budget} cannot be met at full widths: the network costs "
            f"{in_percent(cost, costs.dense, budget.quantities)}. Give a larger budget, or drop more branches, or let "
            "widths shrink, too: widths='sensitivity'"
        )
    return dict(zip(costs.names, costs.full.tolist(), strict=True))
