"""How many units each site keeps, by error curves of the sites."""

from collections.abc import Mapping

import numpy as np

from scionet.budget.allocation.allocate import common, largest_common
from scionet.budget.allocation.exhaustive import is_small, least_error
from scionet.budget.allocation.ladder import NO_MAXIMUM, SAME, Ladder
from scionet.budget.allocation.solver import Search
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting
from scionet.typing import FloatArray, IntArray

_NEGLIGIBLE = 1e-5
"""Of a site's largest error: a refit has a ridge of 1e-6, which more duplicates of a unit make less harmful."""


def by_curves(
    costs: CostModel,
    budget: Budget | str | Mapping[str, object],
    errors: Mapping[str, FloatArray],
    *,
    round_to: int = 1,
    min_units: int = 1,
    max_units: Mapping[str, int] = NO_MAXIMUM,
) -> dict[str, int]:
    """The widths with the least summed error at or below the budget.

    Units that do not lower the predicted error are not kept, even where the budget allows them. Of a site's widths with
    equal errors (up to 1e-9 of the site's largest) the narrowest is taken. So dead units leave budget unused, and so
    does a width that was measured to be no better than a narrower one (noise).

    Duplicate units still lower the error of a refit a little, because of its ridge. So where the widest useful widths
    do not fit, a site's narrowest width that comes to its least error within 1e-5 of its largest counts as good enough.
    If these fit together, they are the answer.

    In small networks all allocations are compared (up to 1000 combinations of widths of all sites but the one that has
    the most). Elsewhere a search is a heuristic, since costs couple neighbouring sites and the exact problem is a
    nonconvex knapsack. From the widest network downwards, and a second time from the narrowest upwards, the steps of
    least damage per cost are taken, with costs computed again after each; steps end on the lower convex hull of a curve
    where that is better. From both and from the uniform allocation, steps of one site are then exchanged against steps
    of another while the error falls, from coarse to fine. The best of the three is taken, among equal ones the
    cheapest. With convex curves, sites that do not touch, and units of equal cost, it is optimal.

    Args:
        costs: The cost model of the network.
        budget: The limits.
        errors: For every site the predicted error at each kept width 0..N, shape ``(N + 1,)``. A width with an
            infinite error is never taken. Where a curve rises with the width (noise), its running minimum counts.
        round_to: What kept widths are multiples of, except the full width; narrower sites stay whole.
        min_units: The fewest units a site keeps.
        max_units: See `scionet.budget.allocation.allocate.in_proportion`.

    Returns:
        The number of units to keep, for every site. The cost is at or below the budget;
        `scionet.budget.allocation.reach.shortfall` says why it is far below.

    Raises:
        InvalidSetting: If a setting is malformed, or the curves do not fit the sites.
        UnreachableBudget: If even the narrowest network of finite error exceeds the budget.
    """
    curves = _checked(costs, errors)
    options = {"round_to": round_to, "min_units": min_units, "max_units": max_units}
    ladder = Ladder.build(costs, Budget.of(budget), errors=curves, **options)
    if ladder.everything_fits:
        return ladder.named(ladder.top)
    error = _errors_on(ladder, curves)
    if ladder.slack(enough := _enough(ladder, error)) >= 0:
        return ladder.named(enough)
    if is_small(ladder):
        return ladder.named(least_error(ladder, error))
    search = Search.build(ladder, error)
    full = costs.full.astype(np.float64)
    starts = (*search.starts(), common(ladder, full, largest_common(ladder, full)))
    found = [search.refine(rungs) for rungs in starts]
    least = min(map(search.total, found))
    return ladder.named(max((r for r in found if search.total(r) <= least * (1 + SAME)), key=ladder.slack))


def _checked(costs: CostModel, errors: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The curves as they may be used: one per site, without NaN, nowhere rising.

    Raises:
        InvalidSetting: If sites and curves do not match; all problems at once.
    """
    problems = [f"no site is named {name!r}" for name in errors if name not in costs.names]
    curves = {}
    for name, full in zip(costs.names, costs.full.tolist(), strict=True):
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


def _errors_on(ladder: Ladder, curves: Mapping[str, FloatArray]) -> FloatArray:
    """The error at each rung, shape ``(site, rung)``, from curves over the widths 0..N of each site."""
    rows = zip(ladder.costs.names, ladder.widths, strict=True)
    return np.array([curves[name][row] for name, row in rows]).reshape(ladder.widths.shape)


def _enough(ladder: Ladder, error: FloatArray) -> IntArray:
    """The lowest rungs whose errors, falling along each row, are the least there is but for a negligible difference."""
    return (error - error[:, -1:] > _NEGLIGIBLE * error[:, :1]).sum(axis=1)
