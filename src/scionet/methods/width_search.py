"""Search over ways to divide a budget, each evaluated by a whole walk.

Sensitivities assume that the sites' contributions to the change of the output add up, which is an approximation.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from scionet.budget.budget import Budget
from scionet.methods.walk import AllocatedWidths, Walk
from scionet.methods.widths.allocator import Allocator
from scionet.progress import silent

_STEP = 0.4
_LONGER, _SHORTER = 1.5, 1.5**-0.25


def searched(allocator: Allocator, budget: Budget, max_units: Mapping[str, int], n_tries: int) -> AllocatedWidths:
    """Return the widths whose output is nearest to the dense network's, on all examples that the walks do not see.

    An evolution strategy with one parent and one child changes factors on the sites' damage curves. Their logarithms
    take normal steps, of size 0.4 at first. A child replaces its parent if it moves the output less. After a success,
    or if no width changes, the step size is multiplied by 1.5; otherwise it is divided by the fourth root of 1.5. One
    step in five then succeeds (Rechenberg, 1973).

    Args:
        allocator: Divides the budget.
        budget: The budget.
        max_units: See `Allocator.widths`.
        n_tries: Number of other widths to try.
    """
    run = allocator.run
    parts = [run.unsurveyed] if run.problem.held_out is None else [run.problem.held_out, run.unsurveyed]
    unseen = sum(part.total(run.network.device) for part in parts)
    distance = run.distance_on(batch for part in (parts if unseen else [run.surveyed]) for batch in part.inputs)
    trying = replace(run, problem=replace(run.problem, calibration=run.surveyed), progress=silent)
    generator = run.generators("width search", str(budget))

    def distance_of(widths: AllocatedWidths) -> float:
        return distance.of(Walk(trying, widths).walk().masked)

    names = list(run.sites)
    place, step = np.zeros(len(names)), _STEP
    best = allocator.widths(budget, max_units)
    least = first = distance_of(best)
    seen = {tuple(best.kept.items())}
    for number in range(n_tries):
        run.progress("search widths", number, n_tries)
        there = place + step * generator.standard_normal(len(names))
        widths = allocator.widths(budget, max_units, dict(zip(names, np.exp(there), strict=True)))
        if (key := tuple(widths.kept.items())) in seen:
            step *= _LONGER
            continue
        seen.add(key)
        found = distance_of(widths)
        step *= _LONGER if found < least else _SHORTER
        if found < least:
            place, best, least = there, widths, found
    run.progress("search widths", n_tries, n_tries)
    note = f"best of {len(seen)} widths tried, distance of the output on held-out examples {first:.3g} -> {least:.3g}"
    return replace(best, notes=(*best.notes, note))
