"""Find the least of many sums of non-negative terms without completing the others."""

from collections.abc import Callable

import numpy as np

from scionet.selection.objective import BoolArray, FloatArray, IntArray
from scionet.selection.policies import TIE

Run = Callable[[IntArray, IntArray], FloatArray]
"""From the positions of some sums, and the number of the next term of each, to these terms."""


def racing(n_sums: int, n_terms: int, n_together: int, run: Run, level: float = 0.0) -> tuple[FloatArray, BoolArray]:
    """Sums of which the least are complete; every other is broken off as soon as it exceeds the least one.

    The sums that are least so far go on first. Terms are 0 or more, so what exceeds a complete sum cannot become the
    least. Nothing is added to a sum above the least one, but for the few that run n_together.

    Args:
        n_sums: Number of sums.
        n_terms: Number of terms of each.
        n_together: How many sums go on at once.
        run: Evaluates terms.
        level: Sums are compared as differences from this one: see `scionet.selection.policies.TIE`.

    Returns:
        The sums, shape ``(n_sums,)``, and which are complete; the others exceed the least one by more than a tie.
    """
    sums, done = np.zeros(n_sums), np.zeros(n_sums, dtype=np.int64)
    while True:
        least = sums[done == n_terms].min(initial=np.inf)
        going_on = np.flatnonzero((done < n_terms) & ~(sums > least + TIE * (least + level)))
        if not going_on.size:
            return sums, done == n_terms
        first = going_on[np.argsort(sums[going_on], kind="stable")[:n_together]]
        sums[first] += run(first, done[first])
        done[first] += 1
