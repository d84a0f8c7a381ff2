"""How many units each site keeps, at one density for all sites or at densities in given proportions."""

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush

import numpy as np

from scionet.budget.allocation.exhaustive import is_small, nearest
from scionet.budget.allocation.ladder import NO_MAXIMUM, Ladder, Moves
from scionet.budget.allocation.reach import TOLERANCE
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting
from scionet.typing import FloatArray, IntArray

_EXPANSIONS = 500
_ENOUGH = 16
_BRANCHES = 64


def uniform(
    costs: CostModel,
    budget: Budget | str | Mapping[str, object],
    *,
    round_to: int = 1,
    min_units: int = 1,
    max_units: Mapping[str, int] = NO_MAXIMUM,
) -> dict[str, int]:
    """The widths at which all sites have one density, as large as the budget allows.

    See `in_proportion`, with one share for all.
    """
    return in_proportion(costs, budget, {}, round_to=round_to, min_units=min_units, max_units=max_units)


def in_proportion(
    costs: CostModel,
    budget: Budget | str | Mapping[str, object],
    shares: Mapping[str, float],
    *,
    round_to: int = 1,
    min_units: int = 1,
    max_units: Mapping[str, int] = NO_MAXIMUM,
) -> dict[str, int]:
    """The widths at which the sites' densities are in given proportions, as large as the budget allows.

    The largest common multiple of the shares is found by bisection and rounded down to allowed widths; no site exceeds
    density 1. The rest of the budget is spent in single steps, at most one per site, on the site first that is sparsest
    for its share. Where this ends more than 1 % below the limit because steps are coarse, sites are exchanged against
    each other to come closer. Of all widths found within 1 % those nearest to the proportions are taken; if there are
    none, those nearest to the limit.

    Args:
        costs: The cost model of the network.
        budget: The limits.
        shares: What the sites' densities are proportional to, above 0; 1 for sites that are not named.
        round_to: What kept widths are multiples of, except the full width; narrower sites stay whole.
        min_units: The fewest units a site keeps.
        max_units: The most units a site keeps, but for its narrowest allowed width; sites not named may stay whole.

    Returns:
        The number of units to keep, for every site. The cost is at or below the budget;
        `scionet.budget.allocation.reach.shortfall` says why it is far below.

    Raises:
        InvalidSetting: If a setting is malformed, or a share is not above 0 or of no site.
        UnreachableBudget: If even the narrowest network exceeds the budget.
    """
    ladder = Ladder.build(costs, Budget.of(budget), round_to=round_to, min_units=min_units, max_units=max_units)
    units = _units_of(costs, shares)
    if ladder.everything_fits:
        return ladder.named(ladder.top)
    multiple = largest_common(ladder, units)
    away = abs(ladder.widths / units[:, None] - multiple)
    return ladder.named(settle(ladder, common(ladder, units, multiple), away))


def _units_of(costs: CostModel, shares: Mapping[str, float]) -> FloatArray:
    """Units that each site keeps where the common multiple of the shares is 1, shape ``(site,)``.

    Raises:
        InvalidSetting: If a share is not above 0, or of no site.
    """
    wrong = {name: share for name, share in shares.items() if name not in costs.names or not 0 < share < np.inf}
    if wrong:
        raise InvalidSetting(f"shares are numbers above 0, by names of sites; given {wrong}")
    return np.array([shares.get(name, 1.0) for name in costs.names]) * costs.full.astype(np.float64)


def largest_common(ladder: Ladder, units: FloatArray) -> float:
    """The largest common multiple of these widths that fits."""
    return ladder.largest(
        lambda multiple: ladder.below(multiple * units), float(max(ladder.costs.full / units, default=1.0))
    )


def common(ladder: Ladder, units: FloatArray, multiple: float) -> IntArray:
    """The rungs of a multiple of these widths, and one step up for each site for which it still fits.

    The site that is sparsest compared with these widths comes first.
    """
    rungs = ladder.below(multiple * units)
    for site in np.argsort(ladder.kept(rungs) / units, kind="stable"):
        higher = np.minimum(rungs + (ladder.all_sites == site), ladder.top)
        rungs = higher if ladder.slack(higher) >= 0 else rungs
    return rungs


def settle(ladder: Ladder, rungs: IntArray, penalty: FloatArray) -> IntArray:
    """Come closer to the limit where steps are so coarse that more than the tolerance is left.

    In small networks all allocations are compared; elsewhere sites are exchanged against each other.

    Args:
        ladder: The widths that may be taken.
        rungs: Where to start, within the budget.
        penalty: How bad each rung of each site is apart from its cost, shape ``(site, rung)``.

    Returns:
        Of rungs within the tolerance those of least penalty, or else those nearest to the limit; see `in_proportion`.
    """
    if ladder.slack(rungs) <= TOLERANCE:
        return rungs
    if is_small(ladder):
        return nearest(ladder, penalty, TOLERANCE)
    rungs = min(_found_nearby(ladder, rungs), key=lambda found: penalty[ladder.all_sites, found].sum())
    spare = max(TOLERANCE, ladder.slack(rungs))
    while True:
        downs, ups = _small_steps(ladder, rungs)
        slacks = ladder.slacks(rungs, downs, ups)
        added = np.add.outer(*(penalty[m.site, m.to] - penalty[m.site, rungs[m.site]] for m in (downs, ups)))
        change = np.where((slacks >= 0) & (slacks <= spare), added, 0)
        if change.min() >= -1e-12 * penalty.max():
            return rungs
        rungs = ladder.exchanged(rungs, downs, ups, int(change.argmin()))


def _found_nearby(ladder: Ladder, start: IntArray) -> list[IntArray]:
    """Some allocations within the tolerance below the limit; if none is found, the one with the least left."""
    least, closest, within = ladder.slack(start), start, list[IntArray]()
    for slack, rungs in _explored(ladder, start):
        if 0 <= slack < least:
            least, closest = slack, rungs
        if 0 <= slack <= TOLERANCE:
            within.append(rungs)
        if len(within) == _ENOUGH:
            break
    return within or [closest]


def _explored(ladder: Ladder, start: IntArray) -> Iterator[tuple[float, IntArray]]:
    """Allocations reached by exchanges, with their slack: a best-first search towards the limit from both sides."""
    frontier = [(ladder.slack(start), 0, start)]
    seen = {start.tobytes()}
    for _ in range(_EXPANSIONS):
        if not frontier:
            return
        for slack, found in _neighbours(ladder, heappop(frontier)[2]):
            if found.tobytes() not in seen:
                seen.add(found.tobytes())
                heappush(frontier, (abs(slack), len(seen), found))
                yield slack, found


def _neighbours(ladder: Ladder, rungs: IntArray) -> Iterator[tuple[float, IntArray]]:
    """The exchanges that come closest to the limit, from either side."""
    downs, ups = _small_steps(ladder, rungs)
    slacks = ladder.slacks(rungs, downs, ups).ravel()
    for index in np.argsort(abs(slacks), kind="stable")[:_BRANCHES]:
        yield float(slacks[index]), ladder.exchanged(rungs, downs, ups, int(index))


def _small_steps(ladder: Ladder, rungs: IntArray) -> tuple[Moves, Moves]:
    """One step or two of each site, downwards and upwards; each list begins with no step at all."""
    none = Moves(ladder.all_sites[:1], rungs[:1])
    downs, ups = (ladder.climb(rungs, sign) | ladder.climb(rungs, 2 * sign) for sign in (-1, 1))
    return none | downs.only(downs.to < rungs[downs.site]), none | ups.only(ups.to > rungs[ups.site])
