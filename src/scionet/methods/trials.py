"""Other ways to share a budget out, tried by whole walks: that effects of sites add up is an approximation."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

import numpy as np

from scionet.budget.limits import Budget
from scionet.methods.effects import Gauge
from scionet.methods.growth import Growth, Task
from scionet.methods.widths import Shares
from scionet.progress import silent

_STEP = 0.4
_LONGER, _SHORTER = 1.5, 1.5**-0.25


def best_tried(task: Task, budget: Budget, most: Mapping[str, int]) -> Shares:
    """The shares of least effect on the network's output, measured on all examples that the walks do not see.

    An evolution strategy with one parent and one child: the logarithms of factors on the sites' damage curves are
    changed by normal steps, at first of 0.4; what moves the output less is kept. Steps grow by 1.5 when that happens or
    no width changes, and shrink by its fourth root otherwise, so that they stay where one in five succeeds (Rechenberg,
    1973).

    Args:
        task: What is to be done.
        budget: The limit.
        most: See `Allocator.shares`.
    """
    allocator, fitting = task.allocator, task.allocator.fitting
    names, n_trials = list(fitting.sites), fitting.settings.width_trials
    apart, others, rest = allocator.parts
    gauge = Gauge.of(fitting.model, chain(apart, rest), fitting.settings.metric)
    trial, draw = replace(task, inputs=others, progress=silent), allocator.draw("width trials", str(budget))

    def effect_of(shares: Shares) -> float:
        return gauge.effect(Growth(trial, shares).grow().masked)

    place, step = np.zeros(len(names)), _STEP
    best = allocator.shares(budget, most)
    least = first = effect_of(best)
    seen = {tuple(best.widths.items())}
    for number in range(n_trials):
        task.progress("try widths", number, n_trials)
        there = place + step * draw.standard_normal(len(names))
        shares = allocator.shares(budget, most, dict(zip(names, np.exp(there), strict=True)))
        if (key := tuple(shares.widths.items())) in seen:
            step *= _LONGER
            continue
        seen.add(key)
        effect = effect_of(shares)
        step *= _LONGER if effect < least else _SHORTER
        if effect < least:
            place, best, least = there, shares, effect
    task.progress("try widths", n_trials, n_trials)
    tried = f"best of {len(seen)} widths tried by whole walks, effect on examples apart {first:.3g} -> {least:.3g}"
    return replace(best, tried=tried)
