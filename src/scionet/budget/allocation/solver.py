"""The search behind allocation by error curves: greedy steps, then exchanges from coarse to fine."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scionet.budget.allocation.ladder import Ladder, Moves
from scionet.typing import FloatArray, IntArray

_TINY = 1e-12
_START = 1 / 256
_QUANTA = 0.25 ** np.arange(2, 14)


@dataclass(frozen=True, eq=False)
class Search:
    """Lowers the sum of error curves by steps on a ladder of widths.

    Steps of different sites are made comparable by a *quantum*: a fraction of the dense cost. At a quantum each site
    moves by the number of rungs that cost about that much, but at least by one. It may also move further, to the next
    vertex of the lower convex hull of its curve. A flat part of a curve is then crossed in one move.

    Attributes:
        ladder: The widths that may be taken, and their costs.
        error: Error at each rung, shape ``(site, rung)``.
        below: The last vertex of the hull at or below each rung, shape ``(site, rung)``.
        above: The first vertex of the hull at or above each rung, shape ``(site, rung)``.
    """

    ladder: Ladder
    error: FloatArray
    below: IntArray
    above: IntArray

    @classmethod
    def build(cls, ladder: Ladder, error: FloatArray) -> "Search":
        """The search on a ladder with a finite error at each rung."""
        below, above = np.zeros_like(ladder.widths), np.zeros_like(ladder.widths)
        for site, top in enumerate(ladder.top):
            vertices = _hull(ladder.widths[site, : top + 1], error[site, : top + 1])
            rungs = np.minimum(np.arange(ladder.widths.shape[1]), top)
            below[site] = vertices[np.searchsorted(vertices, rungs, side="right") - 1]
            above[site] = vertices[np.searchsorted(vertices, rungs)]
        return cls(ladder, error, below, above)

    def total(self, rungs: IntArray) -> float:
        """The summed error."""
        return float(self.error[self.ladder.all_sites, rungs].sum())

    def starts(self) -> Iterator[IntArray]:
        """Allocations within the budget: from the widest rungs downwards, and from the narrowest upwards."""
        yield self.shrink(self.ladder.top, _START)
        yield self.fill(np.zeros_like(self.ladder.top), _START)

    def refine(self, rungs: IntArray) -> IntArray:
        """Exchange and fill until nothing is gained, from coarse to fine."""
        for quantum in _QUANTA:
            rungs = self.fill(rungs, quantum)
            while (better := self.exchange(rungs, quantum)) is not None:
                rungs = self.fill(better, quantum)
        return rungs

    def shrink(self, rungs: IntArray, quantum: float) -> IntArray:
        """Take steps down, those of least damage per cost saved first, until the budget is met.

        Of several limits each counts by how far it is exceeded.
        """
        while (room := self.ladder.room(rungs)).min() < 0:
            moves = self.moves(rungs, -quantum)
            weight = np.maximum(-room, 0) / self.ladder.scale**2
            saved = -weight @ self.ladder.shifts(rungs, moves)
            ratio = np.where(saved > 0, self.change(rungs, moves) / np.maximum(saved, _TINY), np.inf)
            rungs = moves.one(int(ratio.argmin()), rungs)
        return rungs

    def fill(self, rungs: IntArray, quantum: float) -> IntArray:
        """Take steps up, those that lower the error most per cost first, until none fits.

        Of several limits each counts by how little is left below it.
        """
        while True:
            moves, room = self.moves(rungs, quantum), self.ladder.room(rungs)
            added = self.ladder.shifts(rungs, moves)
            fits = (added <= room[:, None]).all(axis=0) & (moves.to > rungs[moves.site])
            if not fits.any():
                return rungs
            price = (added / np.maximum(room, _TINY)[:, None]).sum(axis=0)
            ratio = np.where(fits, -self.change(rungs, moves) / np.maximum(price, _TINY), -1)
            rungs = moves.one(int(ratio.argmax()), rungs)

    def exchange(self, rungs: IntArray, quantum: float) -> IntArray | None:
        """The best step down of one site together with a step up of another, or None if none lowers the error."""
        downs, ups = self.moves(rungs, -quantum), self.moves(rungs, quantum)
        fits = (self.ladder.left(rungs, downs, ups) >= 0).all(axis=0)
        change = np.where(fits, np.add.outer(self.change(rungs, downs), self.change(rungs, ups)), 0)
        best = int(change.argmin())
        if change.flat[best] >= -_TINY * self.total(rungs):
            return None
        return self.ladder.exchanged(rungs, downs, ups, best)

    def moves(self, rungs: IntArray, quantum: float) -> Moves:
        """For each site a plain step, and one to the hull if that is farther: down for a negative quantum, else up."""
        stride = self._stride(rungs, abs(quantum))
        plain = self.ladder.climb(rungs, -stride if quantum < 0 else stride)
        vertices = self.below if quantum < 0 else self.above
        hull = Moves(plain.site, vertices[plain.site, plain.to])
        return plain | hull.only(hull.to != plain.to)

    def change(self, rungs: IntArray, moves: Moves) -> FloatArray:
        """How much each move alone adds to the error, shape ``(move,)``."""
        return self.error[moves.site, moves.to] - self.error[moves.site, rungs[moves.site]]

    def _stride(self, rungs: IntArray, quantum: float) -> IntArray:
        """The number of rungs of each site that cost about a quantum, at least one.

        The cost of a rung is the mean over all rungs below, or over all above the lowest. A single rung may cost
        nothing, because latency is a step function.
        """
        ladder = self.ladder
        end = ladder.climb(rungs, np.where(rungs > 0, -rungs, ladder.top))
        limited = np.isfinite(ladder.limits)
        all_rungs = (abs(ladder.shifts(rungs, end)) / ladder.scale[:, None])[limited].max(axis=0)
        price = all_rungs / np.maximum(abs(end.to - rungs), 1)
        return np.clip(quantum / np.maximum(price, _TINY), 1, np.maximum(ladder.top, 1)).astype(np.int64)


def _hull(widths: IntArray, error: FloatArray) -> IntArray:
    """Rungs at the vertices of the lower convex hull: where the isotonic regression of the slopes has its blocks."""
    if len(widths) < 3:
        return np.arange(len(widths))
    steps = np.diff(widths)
    from scipy.optimize import isotonic_regression  # half a second to import

    return isotonic_regression(np.diff(error) / steps, weights=steps).blocks.astype(np.int64)
