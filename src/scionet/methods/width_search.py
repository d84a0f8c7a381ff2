"""Other ways to share a budget out, tried by whole walks: that effects of sites add up is an approximation."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

import numpy as np

from scionet.budget.budget import Budget
from scionet.methods.walk import Task, Walk
from scionet.methods.widths.allocator import SharedWidths
from scionet.methods.widths.sensitivity import OutputDistance
from scionet.progress import silent

_STEP = 0.4
_LONGER, _SHORTER = 1.5, 1.5**-0.25


def best_tried(task: Task, budget: Budget, most: Mapping[str, int]) -> SharedWidths:
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
    distance = OutputDistance.of(fitting.model, chain(apart, rest), fitting.settings.metric)
    trial, generators = replace(task, inputs=others, progress=silent), allocator.generators("width trials", str(budget))

    def effect_of(shares: SharedWidths) -> float:
        return distance.effect(Walk(trial, shares).grow().masked)

    place, step = np.zeros(len(names)), _STEP
    best = allocator.shares(budget, most)
    least = first = effect_of(best)
    seen = {tuple(best.widths.items())}
    for number in range(n_trials):
        task.progress("try widths", number, n_trials)
        there = place + step * generators.standard_normal(len(names))
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
