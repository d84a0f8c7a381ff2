"""How many units each site may keep where units of several sites compete by their scores."""

from collections.abc import Mapping, Sequence

import numpy as np

from scionet.budget.allocation.allocate import settle
from scionet.budget.allocation.ladder import NO_MAXIMUM, Ladder
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting
from scionet.typing import FloatArray, IntArray


def by_scores(
    costs: CostModel,
    budget: Budget | str | Mapping[str, object],
    scores: Mapping[str, FloatArray],
    groups: Sequence[Sequence[str]],
    *,
    round_to: int = 1,
    min_units: int = 1,
    max_units: Mapping[str, int] = NO_MAXIMUM,
) -> dict[str, int]:
    """The widths at which every group of sites keeps the same fraction of its units, those of highest score.

    The largest common density is found by bisection; a group keeps the whole number of units nearest to it. Where that
    ends more than 1 % below the limit, sites are exchanged against each other to come closer.

    Args:
        costs: The cost model of the network.
        budget: The limits.
        scores: What each unit is worth, ``(width,)`` by site.
        groups: Names of the sites of each group; every site is in one of them.
        round_to: What kept widths are multiples of, rounded down, except the full width; narrower sites stay whole.
        min_units: The fewest units a site keeps.
        max_units: See `scionet.budget.allocation.allocate.in_proportion`.

    Returns:
        The number of units to keep, for every site. The cost is at or below the budget;
        `scionet.budget.allocation.reach.shortfall` says why it is far below.

    Raises:
        InvalidSetting: If a setting is malformed, or sites, scores and groups do not match.
        UnreachableBudget: If even the narrowest network exceeds the budget.
    """
    _refuse_misfit(costs, scores, groups)
    ladder = Ladder.build(costs, Budget.of(budget), round_to=round_to, min_units=min_units, max_units=max_units)
    if ladder.everything_fits:
        return ladder.named(ladder.top)
    places = [_places(costs, scores, group) for group in groups]
    rungs = _rungs(ladder, places, ladder.largest(lambda density: _rungs(ladder, places, density), 1.0))
    away = abs(ladder.widths - ladder.kept(rungs)[:, None]) / costs.full[:, None]
    return ladder.named(settle(ladder, rungs, away))


def _places(costs: CostModel, scores: Mapping[str, FloatArray], group: Sequence[str]) -> IntArray:
    """Positions of the sites whose units come first, second, ... in a group, the first of equal ones first."""
    owners = np.repeat([costs.names.index(name) for name in group], [len(scores[name]) for name in group])
    return owners[np.argsort(-np.concatenate([scores[name] for name in group]), kind="stable")]


def _rungs(ladder: Ladder, places: Sequence[IntArray], density: float) -> IntArray:
    """For each site the highest rung that its best units reach at one density of all groups, or its lowest rung."""
    kept = np.concatenate([place[: int(density * len(place) + 0.5)] for place in places])
    return ladder.below(np.bincount(kept, minlength=len(ladder.top)))


def _refuse_misfit(costs: CostModel, scores: Mapping[str, FloatArray], groups: Sequence[Sequence[str]]) -> None:
    """Check that there is a score for every unit, and a group for every site.

    Raises:
        InvalidSetting: If there is not.
    """
    widths = dict(zip(costs.names, costs.full.tolist(), strict=True))
    if {name: len(score) for name, score in scores.items()} != widths:
        raise InvalidSetting(f"every unit needs a score; sites have {widths} units, scores are of {sorted(scores)}")
    if sorted(name for group in groups for name in group) != sorted(widths):
        raise InvalidSetting(f"every site must be in one group; sites are {sorted(widths)}, groups {list(groups)}")
