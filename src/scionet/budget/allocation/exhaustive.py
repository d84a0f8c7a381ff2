"""The best allocation of a small network, by comparing all of them."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from scionet.budget.allocation.ladder import SAME, Ladder, Moves
from scionet.typing import FloatArray, IntArray

_COMBINATIONS = 1000


def is_small(ladder: Ladder) -> bool:
    """Whether all allocations can be compared in a few hundredths of a second."""
    return bool(np.sort(ladder.top + 1.0)[:-1].prod() <= _COMBINATIONS)


def least_error(ladder: Ladder, error: FloatArray) -> IntArray:
    """The rungs within the budget with the least summed error; among equal ones the cheapest.

    Args:
        ladder: The widths that may be taken: at least one site, and the lowest rungs fit.
        error: Predicted error at each rung, shape ``(site, rung)``.
    """
    table = _Table.of(ladder)
    totals = np.where(table.slacks >= 0, table.sums(error), np.inf)
    equal = totals <= totals.min() * (1 + SAME)
    return table.rungs(int(np.where(equal, table.slacks, -1).argmax()))


def nearest(ladder: Ladder, penalty: FloatArray, tolerance: float) -> IntArray:
    """The rungs of least summed penalty at most `tolerance` below the budget, or else those nearest to it.

    Args:
        ladder: See `least_error`.
        penalty: How bad each rung is, shape ``(site, rung)``.
        tolerance: A fraction of the dense cost.
    """
    table = _Table.of(ladder)
    slacks, totals = np.where(table.slacks >= 0, table.slacks, np.inf), table.sums(penalty)
    least = max(tolerance, float(slacks.min()))
    return table.rungs(int(np.where(slacks <= least, totals, np.inf).argmin()))


@dataclass(frozen=True, eq=False)
class _Table:
    """All allocations: a row for each combination of the other sites' rungs, a column for each rung of the widest site.

    Attributes:
        widest: The moves of the site that has the most rungs, to each of them.
        combinations: The rungs of all sites in each row, shape ``(row, site)``; 0 at the widest site.
        slacks: What is left below the tightest limit, shape ``(row, column)``.
    """

    widest: Moves
    combinations: IntArray
    slacks: FloatArray

    @classmethod
    def of(cls, ladder: Ladder) -> "_Table":
        """The allocations of a ladder with at least one site."""
        site = int(ladder.top.argmax())
        rungs = np.arange(ladder.top[site] + 1)
        widest = Moves(np.full_like(rungs, site), rungs)
        ends = np.where(ladder.all_sites == site, 0, ladder.top)
        combinations = np.array([*product(*(range(end + 1) for end in ends.tolist()))], dtype=np.int64)
        left = np.array([ladder.room(row)[:, None] - ladder.shifts(row, widest) for row in combinations])
        return cls(widest, combinations, np.min(left / ladder.scale[:, None], axis=1))

    def sums(self, scores: FloatArray) -> FloatArray:
        """The summed scores of all sites, shape ``(row, column)``, from those of each rung ``(site, rung)``."""
        others = np.delete(np.arange(len(scores)), self.widest.site[0])
        rows = scores[others, self.combinations[:, others]].sum(axis=1)
        return np.add.outer(rows, scores[self.widest.site, self.widest.to])

    def rungs(self, index: int) -> IntArray:
        """The allocation at a position in the flattened table."""
        row, column = divmod(index, len(self.widest.to))
        return self.widest.one(column, self.combinations[row])
