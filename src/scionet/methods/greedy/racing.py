"""Find the least of many sums of non-negative terms without completing the others."""

from collections.abc import Callable

import numpy as np

from scionet.selection.policies import TIE
from scionet.typing import BoolArray, FloatArray, IntArray

Run = Callable[[IntArray, IntArray], FloatArray]
"""Returns terms, given the positions of some sums and the number of the next term of each."""


def racing(n_sums: int, n_terms: int, n_together: int, run: Run, level: float = 0.0) -> tuple[FloatArray, BoolArray]:
    """Complete the least sums; stop every other sum as soon as it exceeds the least one.

    Sums that are least so far are continued first. Terms are 0 or more, so a partial sum above a complete one cannot
    become the least. No terms are added to such a sum, except to the few that run together with others.

    Args:
        n_sums: Number of sums.
        n_terms: Number of terms of each.
        n_together: How many sums are continued at once.
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
