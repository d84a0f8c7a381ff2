"""How many units each site keeps: one density for all, or what the error curves of the sites say."""

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush

import numpy as np

from scionet.budget.allocation.ladder import NO_CAPS, TOLERANCE, Ladder, Moves, describe
from scionet.budget.allocation.solver import Search
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.budget.forms import FloatArray, IntArray
from scionet.errors import InvalidSetting, UnreachableBudget

_EXPANSIONS = 500
_ENOUGH = 16
_BRANCHES = 64


def uniform(
    model: CostModel,
    budget: Budget | str | Mapping[str, object],
    *,
    round_to: int = 1,
    min_units: int = 1,
    most: Mapping[str, int] = NO_CAPS,
) -> dict[str, int]:
    """The widths at which all sites have one density, as large as the budget allows.

    See `in_proportion`, with one share for all.
    """
    return in_proportion(model, budget, {}, round_to=round_to, min_units=min_units, most=most)


def in_proportion(
    model: CostModel,
    budget: Budget | str | Mapping[str, object],
    shares: Mapping[str, float],
    *,
    round_to: int = 1,
    min_units: int = 1,
    most: Mapping[str, int] = NO_CAPS,
) -> dict[str, int]:
    """The widths at which the sites' densities are in given proportions, as large as the budget allows.

    The largest common multiple of the shares is bisected and rounded down to allowed widths; no site exceeds density 1.
    What is left is given away in single steps, at most one per site, to the site first that is sparsest for its share.
    Only where steps are so coarse that this ends more than 1 % below the limit, sites are exchanged against each other
    to come closer.

    Args:
        model: The costs.
        budget: The limits.
        shares: What the sites' densities are proportional to, above 0; 1 for sites that are not named.
        round_to: What kept widths are multiples of, except the full width; narrower sites stay whole.
        min_units: The fewest units a site keeps.
        most: The most units a site keeps, but for its narrowest allowed width; sites not named may stay whole.

    Returns:
        The number of units to keep, for every site. Less than the budget allows only if all sites keep the most.

    Raises:
        InvalidSetting: If a setting is malformed, or a share is not above 0 or of no site.
        UnreachableBudget: If no network is small enough, or none within 1 % of the limit was found.
    """
    ladder = Ladder.build(model, Budget.of(budget), round_to=round_to, min_units=min_units, most=most)
    units = _units_of(model, shares)
    if ladder.everything_fits:
        return ladder.named(ladder.top)
    multiple = _largest_common(ladder, units)
    away = abs(ladder.widths / units[:, None] - multiple)
    return ladder.named(settle(ladder, _common(ladder, units, multiple), away))


def by_curves(
    model: CostModel,
    budget: Budget | str | Mapping[str, object],
    errors: Mapping[str, FloatArray],
    *,
    round_to: int = 1,
    min_units: int = 1,
    most: Mapping[str, int] = NO_CAPS,
) -> dict[str, int]:
    """The widths with the least summed error under the budget.

    A heuristic, since costs couple neighbouring sites and the exact problem is a nonconvex knapsack. From the dense
    network downwards, and a second time from the narrowest upwards, the steps of least damage per cost are taken,
    with costs recomputed after each; steps end on the lower convex hull of a curve where that is better. From both
    and from the uniform allocation, steps of one site are then exchanged against steps of another while the error
    falls, from coarse to fine; the best of the three is taken. With convex curves, sites that do not touch, and
    units of equal cost, it is optimal.

    Args:
        model: The costs.
        budget: The limits.
        errors: For every site the predicted error at each kept width 0..N, shape ``(N + 1,)``. A width with an
            infinite error is never taken. Where a curve rises with the width (noise), its running minimum counts.
        round_to: What kept widths are multiples of, except the full width; narrower sites stay whole.
        min_units: The fewest units a site keeps.
        most: See `uniform`.

    Returns:
        The number of units to keep, for every site. Less than the budget allows only if all sites keep the most.

    Raises:
        InvalidSetting: If a setting is malformed, or the curves do not fit the sites.
        UnreachableBudget: If no network is small enough, or none within 1 % of the limit was found.
    """
    curves = _checked(model, errors)
    allowed = {name: np.isfinite(curve) for name, curve in curves.items()}
    options = {"round_to": round_to, "min_units": min_units, "most": most}
    ladder = Ladder.build(model, Budget.of(budget), allowed=allowed, **options)
    if ladder.everything_fits:
        return ladder.named(ladder.top)
    search = Search.build(ladder, curves)
    full = _units_of(model, {})
    starts = (*search.starts(), _common(ladder, full, _largest_common(ladder, full)))
    best = min(map(search.refine, starts), key=search.total)
    return ladder.named(settle(ladder, best, search.error))


def _units_of(model: CostModel, shares: Mapping[str, float]) -> FloatArray:
    """Units that each site keeps where the common multiple of the shares is 1, shape ``(site,)``.

    Raises:
        InvalidSetting: If a share is not above 0, or of no site.
    """
    wrong = {name: share for name, share in shares.items() if name not in model.names or not 0 < share < np.inf}
    if wrong:
        raise InvalidSetting(f"shares are numbers above 0, by names of sites; given {wrong}")
    return np.array([shares.get(name, 1.0) for name in model.names]) * model.full.astype(np.float64)


def _largest_common(ladder: Ladder, units: FloatArray) -> float:
    """The largest common multiple of these widths that fits."""
    return ladder.largest(
        lambda multiple: ladder.below(multiple * units), float(max(ladder.model.full / units, default=1.0))
    )


def _common(ladder: Ladder, units: FloatArray, multiple: float) -> IntArray:
    """The rungs of a multiple of these widths, and one step up for each site for which it still fits.

    The site that is sparsest beside these widths comes first.
    """
    at = ladder.below(multiple * units)
    for site in np.argsort(ladder.kept(at) / units, kind="stable"):
        higher = np.minimum(at + (ladder.everyone == site), ladder.top)
        at = higher if ladder.slack(higher) >= 0 else at
    return at


def _checked(model: CostModel, errors: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The curves as they may be used: one per site, without NaN, nowhere rising.

    Raises:
        InvalidSetting: If sites and curves do not match; all problems at once.
    """
    problems = [f"no site is named {name!r}" for name in errors if name not in model.names]
    curves = {}
    for name, full in zip(model.names, model.full.tolist(), strict=True):
        curve = np.asarray(errors.get(name, ()), dtype=np.float64)
        if curve.shape != (full + 1,):
            problems.append(f"site {name!r} needs {full + 1} values, for 0..{full} kept units; given {curve.shape}")
        elif np.isnan(curve).any() or not np.isfinite(curve[-1]):
            problems.append(f"the curve of site {name!r} has a NaN, or is not finite at full width")
        else:
            curves[name] = np.minimum.accumulate(curve)
    if problems:
        raise InvalidSetting("the error curves do not fit the network: " + "; ".join(problems))
    return curves


def settle(ladder: Ladder, at: IntArray, penalty: FloatArray) -> IntArray:
    """Where steps are so coarse that the limit is missed by more than the tolerance: exchange them to come closer.

    Args:
        ladder: The widths that may be taken.
        at: Where to start, within the budget.
        penalty: What each rung of each site costs apart from the budget, shape ``(site, rung)``.

    Raises:
        UnreachableBudget: If nothing close enough was found.
    """
    if ladder.slack(at) <= TOLERANCE:
        return at
    at = min(_near(ladder, at), key=lambda rungs: penalty[ladder.everyone, rungs].sum())
    while True:
        downs, ups = _small_steps(ladder, at)
        slacks = ladder.slacks(at, downs, ups)
        added = np.add.outer(*(penalty[m.site, m.to] - penalty[m.site, at[m.site]] for m in (downs, ups)))
        change = np.where((slacks >= 0) & (slacks <= TOLERANCE), added, 0)
        if change.min() >= -1e-12 * penalty.max():
            return at
        at = ladder.exchanged(at, downs, ups, int(change.argmin()))


def _near(ladder: Ladder, start: IntArray) -> list[IntArray]:
    """Some allocations within the tolerance.

    Raises:
        UnreachableBudget: If none is found.
    """
    near, nearest = [], (ladder.slack(start), start)
    for slack, at in _explored(ladder, start):
        if 0 <= slack <= TOLERANCE:
            near.append(at)
        if 0 <= slack < nearest[0]:
            nearest = slack, at
        if len(near) == _ENOUGH:
            break
    if not near:
        raise UnreachableBudget(_too_coarse(ladder, nearest[1]))
    return near


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


def _neighbours(ladder: Ladder, at: IntArray) -> Iterator[tuple[float, IntArray]]:
    """The exchanges that come closest to the limit, from either side."""
    downs, ups = _small_steps(ladder, at)
    slacks = ladder.slacks(at, downs, ups).ravel()
    for index in np.argsort(abs(slacks), kind="stable")[:_BRANCHES]:
        yield float(slacks[index]), ladder.exchanged(at, downs, ups, int(index))


def _small_steps(ladder: Ladder, at: IntArray) -> tuple[Moves, Moves]:
    """One step or two of each site, downwards and upwards; each list begins with no step at all."""
    none = Moves(ladder.everyone[:1], at[:1])
    downs, ups = (ladder.climb(at, sign) | ladder.climb(at, 2 * sign) for sign in (-1, 1))
    return none | downs.only(downs.to < at[downs.site]), none | ups.only(ups.to > at[ups.site])


def _too_coarse(ladder: Ladder, at: IntArray) -> str:
    return (
        f"no allocation within {TOLERANCE:.0%} below the budget {ladder.budget} was found: the nearest below it has "
        f"{describe(ladder.cost(at), ladder.model.dense)}; lower round_to or min_units, or set the budget to that"
    )
