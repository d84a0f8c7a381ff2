"""The search behind allocation by error curves: greedy steps, then exchanges from coarse to fine."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from scionet.budget.allocation.ladder import Ladder, Moves
from scionet.budget.forms import FloatArray, IntArray

_TINY = 1e-12
_START = 1 / 256
_QUANTA = 0.25 ** np.arange(2, 14)


@dataclass(frozen=True, eq=False)
class Search:
    """Error curves on a ladder, and the steps that lower their sum.

    Steps of different sites are made comparable by a *quantum*: a fraction of the dense cost. At a quantum each site
    moves by as many rungs as cost about that much, but at least by one; or further, to the next vertex of the lower
    convex hull of its curve, so that a plateau is crossed at one go.

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
    def build(cls, ladder: Ladder, curves: Mapping[str, FloatArray]) -> "Search":
        """The search for curves over the widths 0..N of each site, finite wherever the ladder has a rung."""
        rows = zip(ladder.model.names, ladder.widths, strict=True)
        error = np.array([curves[name][row] for name, row in rows]).reshape(ladder.widths.shape)
        below, above = np.zeros_like(ladder.widths), np.zeros_like(ladder.widths)
        for site, top in enumerate(ladder.top):
            vertices = _hull(ladder.widths[site, : top + 1], error[site, : top + 1])
            rungs = np.minimum(np.arange(ladder.widths.shape[1]), top)
            below[site] = vertices[np.searchsorted(vertices, rungs, side="right") - 1]
            above[site] = vertices[np.searchsorted(vertices, rungs)]
        return cls(ladder, error, below, above)

    def total(self, at: IntArray) -> float:
        """The summed error."""
        return float(self.error[self.ladder.everyone, at].sum())

    def starts(self) -> Iterator[IntArray]:
        """Allocations within the budget: from the dense network downwards, from the narrowest upwards."""
        yield self.shrink(self.ladder.top, _START)
        yield self.fill(np.zeros_like(self.ladder.top), _START)

    def refine(self, at: IntArray) -> IntArray:
        """Exchange and fill until nothing is gained, from coarse to fine."""
        for quantum in _QUANTA:
            at = self.fill(at, quantum)
            while (better := self.exchange(at, quantum)) is not None:
                at = self.fill(better, quantum)
        return at

    def shrink(self, at: IntArray, quantum: float) -> IntArray:
        """Take away the steps of least damage per cost saved until the budget is met.

        Of several limits each counts by how far it is exceeded.
        """
        while (room := self.ladder.room(at)).min() < 0:
            moves = self.moves(at, -quantum)
            weight = np.maximum(-room, 0) / self.ladder.scale**2
            saved = -weight @ self.ladder.shifts(at, moves)
            ratio = np.where(saved > 0, self.change(at, moves) / np.maximum(saved, _TINY), np.inf)
            at = moves.one(int(ratio.argmin()), at)
        return at

    def fill(self, at: IntArray, quantum: float) -> IntArray:
        """Add the steps of most error removed per cost, among those that fit, until none fits.

        Of several limits each counts by how little is left below it.
        """
        while True:
            moves, room = self.moves(at, quantum), self.ladder.room(at)
            added = self.ladder.shifts(at, moves)
            fits = (added <= room[:, None]).all(axis=0) & (moves.to > at[moves.site])
            if not fits.any():
                return at
            price = (added / np.maximum(room, _TINY)[:, None]).sum(axis=0)
            ratio = np.where(fits, -self.change(at, moves) / np.maximum(price, _TINY), -1)
            at = moves.one(int(ratio.argmax()), at)

    def exchange(self, at: IntArray, quantum: float) -> IntArray | None:
        """The best step down of one site together with a step up of another, or None if none lowers the error."""
        downs, ups = self.moves(at, -quantum), self.moves(at, quantum)
        fits = (self.ladder.left(at, downs, ups) >= 0).all(axis=0)
        change = np.where(fits, np.add.outer(self.change(at, downs), self.change(at, ups)), 0)
        best = int(change.argmin())
        if change.flat[best] >= -_TINY * self.total(at):
            return None
        return self.ladder.exchanged(at, downs, ups, best)

    def moves(self, at: IntArray, quantum: float) -> Moves:
        """For each site a plain step, and one to the hull if that is farther: down for a negative quantum, else up."""
        stride = self._stride(at, abs(quantum))
        plain = self.ladder.climb(at, -stride if quantum < 0 else stride)
        vertices = self.below if quantum < 0 else self.above
        hull = Moves(plain.site, vertices[plain.site, plain.to])
        return plain | hull.only(hull.to != plain.to)

    def change(self, at: IntArray, moves: Moves) -> FloatArray:
        """How much each move alone adds to the error, shape ``(move,)``."""
        return self.error[moves.site, moves.to] - self.error[moves.site, at[moves.site]]

    def _stride(self, at: IntArray, quantum: float) -> IntArray:
        """How many rungs of each site cost about a quantum, at least one.

        A rung costs what it does in the mean over all that are below, or above the lowest: a single one may cost
        nothing where latency goes in steps.
        """
        ladder = self.ladder
        end = ladder.climb(at, np.where(at > 0, -at, ladder.top))
        limited = np.isfinite(ladder.caps)
        all_rungs = (abs(ladder.shifts(at, end)) / ladder.scale[:, None])[limited].max(axis=0)
        price = all_rungs / np.maximum(abs(end.to - at), 1)
        return np.clip(quantum / np.maximum(price, _TINY), 1, np.maximum(ladder.top, 1)).astype(np.int64)


def _hull(widths: IntArray, error: FloatArray) -> IntArray:
    """Rungs at the vertices of the lower convex hull: where the isotonic regression of the slopes has its blocks."""
    if len(widths) < 3:
        return np.arange(len(widths))
    steps = np.diff(widths)
    from scipy.optimize import isotonic_regression  # half a second to import

    return isotonic_regression(np.diff(error) / steps, weights=steps).blocks.astype(np.int64)
