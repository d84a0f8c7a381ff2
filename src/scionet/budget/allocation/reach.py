"""What there is to say of a budget: that it cannot be met, or that it is not used up."""

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


def refuse_unreachable(model: CostModel, budget: Budget, *, round_to: int = 1, min_units: int = 1) -> None:
    """Refuse a budget that no widths meet. No data are needed to know that.

    Args:
        model: The costs.
        budget: The limits.
        round_to: What kept widths are multiples of, except the full width; narrower sites stay whole.
        min_units: The fewest units a site keeps.

    Raises:
        InvalidSetting: If `round_to` or `min_units` is below 1, or latency is limited and was not measured.
        UnreachableBudget: If even the narrowest network exceeds a limit; the text names its cost.
    """
    Ladder.build(model, budget, round_to=round_to, min_units=min_units)


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
    model: CostModel,
    budget: Budget,
    widths: Mapping[str, int],
    *,
    round_to: int = 1,
    min_units: int = 1,
    unused: str = NO_GAIN,
) -> str:
    """What a status should say of widths that do not use their budget up.

    Args:
        model: The costs.
        budget: The limits, which the widths meet.
        widths: The number of units that each site keeps.
        round_to: As given to the allocation.
        min_units: As given to the allocation.
        unused: Why units that would fit are left out.

    Returns:
        A sentence with what is used and why it is not more. Empty where that is at most 1 % below the tightest limit,
        or everything is kept.
    """
    cost = model.cost(widths)
    whole = all(widths.get(name, full) == full for name, full in zip(model.names, model.full.tolist(), strict=True))
    if whole or budget.slack(cost, model.dense) <= TOLERANCE:
        return ""
    ladder = Ladder.build(model, budget, round_to=round_to, min_units=min_units)
    rungs = ladder.below(np.array([widths.get(name, site.width) for name, site in model.sites.items()]))
    wider = ladder.climb(rungs, 1)
    fits = [ladder.slack(wider.one(site, rungs)) >= 0 for site in np.flatnonzero(wider.to > rungs).tolist()]
    reason = unused if any(fits) else "one step more at any site would exceed it"
    return f"the budget {budget} is met with {in_percent(cost, model.dense, budget.quantities)}: {reason}"
