"""Reports about a budget: it cannot be met, or a part of it is unused."""

from collections.abc import Mapping

import numpy as np

from scionet.budget.allocation.ladder import Ladder, in_percent
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel

TOLERANCE = 0.01
"""Widths that end further below their tightest limit are reported; a fraction of the dense cost."""

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
    if whole or budget.slack(cost, costs.dense) <= TOLERANCE:
        return ""
    ladder = Ladder.build(costs, budget, round_to=round_to, min_units=min_units)
    rungs = ladder.below(np.array([widths.get(name, site.width) for name, site in costs.sites.items()]))
    wider = ladder.climb(rungs, 1)
    fits = [ladder.slack(wider.one(site, rungs)) >= 0 for site in np.flatnonzero(wider.to > rungs).tolist()]
    reason = unused if any(fits) else "one step more at any site would exceed it"
    return f"the budget {budget} is met with {in_percent(cost, costs.dense, budget.quantities)}: {reason}"
