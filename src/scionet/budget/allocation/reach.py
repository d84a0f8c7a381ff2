"""Reports about a budget: it cannot be met, or a part of it is unused."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from scionet.budget.allocation.ladder import Ladder, in_percent
from scionet.budget.budget import Budget
from scionet.budget.costs import Cost, CostModel
from scionet.errors import BudgetExceeded

TOLERANCE = 0.01
"""Widths that end further below their tightest limit are reported; a fraction of the dense cost."""

_ROUNDING = 1e-12
"""Relative rounding of MACs per example, which need not be whole numbers."""

NO_GAIN = "more units would not lower the predicted error"
"""Why widths chosen by error curves leave budget unused."""


def refuse_unreachable(costs: CostModel, budget: Budget, *, round_to: int = 1, min_units: int = 1) -> None:
    """Refuse a budget that no widths meet. This needs no data.

    Args:
        costs: The cost model of the network.
        budget: The limits.
        round_to: Kept widths are multiples of this, except the full width; narrower sites stay whole.
        min_units: The fewest units a site keeps.

    Raises:
        InvalidSetting: If `round_to` or `min_units` is below 1, or latency is limited and was not measured.
        UnreachableBudget: If even the narrowest network exceeds a limit; the text names its cost.
    """
    Ladder.build(costs, budget, round_to=round_to, min_units=min_units)


def refuse_exceeded(budget: Budget, pruned: Cost, dense: Cost) -> None:
    """Refuse a cut network that costs more than its budget.

    Args:
        budget: The limits.
        pruned: The cost of the cut network, counted after the cut.
        dense: The cost of the dense network, counted alike.

    Raises:
        BudgetExceeded: If a limit is exceeded, or MACs are limited and none of the dense network's count.
    """
    if "macs" in budget.quantities and not dense.macs:
        raise BudgetExceeded(
            f"the budget {budget} limits MACs, but all MACs of the network depend on the data; limit its parameters"
        )
    if not budget.met(replace(pruned, macs=pruned.macs * (1 - _ROUNDING)), dense):
        raise BudgetExceeded(
            f"the cut network exceeds the budget {budget}: counted after the cut, it has "
            f"{in_percent(pruned, dense, budget.quantities)}. What the network computes does not follow from its "
            "widths and the shapes of its inputs alone; give a smaller budget, or limit its parameters"
        )


def shortfall(
    costs: CostModel,
    budget: Budget,
    widths: Mapping[str, int],
    *,
    round_to: int = 1,
    min_units: int = 1,
    unused: str = NO_GAIN,
) -> str:
    """Return the status text for widths that leave a part of the budget unused.

    Args:
        costs: The cost model of the network.
        budget: The limits, which the widths meet.
        widths: The number of units that each site keeps.
        round_to: As given to the allocation.
        min_units: As given to the allocation.
        unused: Why units that would fit are left out.

    Returns:
        A sentence with the used part and the reason. Empty if the cost is at most 1 % below the tightest limit, or
        if everything is kept.
    """
    cost = costs.cost(widths)
    whole = all(widths.get(name, full) == full for name, full in zip(costs.names, costs.full.tolist(), strict=True))
    if (whole and not costs.sites.dropped) or budget.slack(cost, costs.dense) <= TOLERANCE:
        return ""
    met = f"the budget {budget} is met with {in_percent(cost, costs.dense, budget.quantities)}"
    if whole:
        return f"{met}: without the dropped branches, whole layers take no more"
    ladder = Ladder.build(costs, budget, round_to=round_to, min_units=min_units)
    rungs = ladder.below(np.array([widths.get(name, site.width) for name, site in costs.sites.items()]))
    wider = ladder.climb(rungs, 1)
    fits = [ladder.slack(wider.one(site, rungs)) >= 0 for site in np.flatnonzero(wider.to > rungs).tolist()]
    reason = unused if any(fits) else "one step more at any site would exceed it"
    return f"{met}: {reason}"
