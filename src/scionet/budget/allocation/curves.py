"""Allocation by error curves: the number of units that each site keeps."""

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
"""A negligible error, as a fraction of the site's largest. A refit has a ridge of 1e-6, and duplicate units reduce its
effect a little."""


def by_curves(
    costs: CostModel,
    budget: Budget | str | Mapping[str, object],
    errors: Mapping[str, FloatArray],
    *,
    round_to: int = 1,
    min_units: int = 1,
    max_units: Mapping[str, int] = NO_MAXIMUM,
) -> dict[str, int]:
    """Return the widths with the least summed error at or below the budget.

    Units that do not lower the predicted error are removed, even if the budget allows them. Among widths of a site with
    equal errors (up to 1e-9 of the site's largest), the narrowest is taken. Part of the budget is therefore unused if
    there are dead units, or if a width was measured to be no better than a narrower one (noise).

    Duplicate units still lower the error of a refit a little, because of its ridge. If the widest useful widths exceed
    the budget, a width is good enough if its error exceeds the site's least by at most 1e-5 of the site's largest.
    If the narrowest such widths of all sites meet the budget, they are returned.

    In small networks, all allocations are compared: up to 1000 combinations of widths, without the site that has the
    most widths. Otherwise a heuristic search is used. The exact problem is a nonconvex knapsack, because costs couple
    neighbouring sites. The search has three starts:

    - from the widest network downwards, by the steps of least damage per cost;
    - from the narrowest network upwards, in the same way;
    - the uniform allocation.

    Costs are updated after each step. A step may end at the next vertex of the lower convex hull of a curve, if that is
    better. From each start, steps of one site are then exchanged for steps of another while the error falls, from
    coarse to fine. The best of the three results is returned, or the cheapest of equally good ones. It is optimal if
    curves are convex, sites share no operations, and units have equal cost.

    Args:
        costs: The cost model of the network.
        budget: The limits.
        errors: For every site the predicted error at each kept width 0..N, shape ``(N + 1,)``. A width with an
            infinite error is never taken. If a curve rises with the width (noise), its running minimum is used.
        round_to: Kept widths are multiples of this, except the full width; narrower sites stay whole.
        min_units: The fewest units a site keeps.
        max_units: See `scionet.budget.allocation.allocate.in_proportion`.

    Returns:
        The number of units to keep, for every site. The cost is at or below the budget. If it is far below,
        `scionet.budget.allocation.reach.shortfall` explains why.

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
    """Check the curves: one per site, without NaN. Return their running minima.

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
    """The lowest rungs whose errors differ negligibly from the least of their row. Errors fall along each row."""
    return (error - error[:, -1:] > _NEGLIGIBLE * error[:, :1]).sum(axis=1)
