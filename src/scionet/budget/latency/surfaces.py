"""Latency at any widths: the sum of measured functions of one or two axes, interpolated between their knots."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scionet.budget.latency.timed_operations import Axis
from scionet.typing import FloatArray, IntArray

_SLOPE = 1e-6
"""Least rise of a surface along an axis, as a fraction of its largest value: every step down then saves something."""


@dataclass(frozen=True, eq=False)
class Surface:
    """Duration of one operation, or of several that shrink alike, at some fractions of their axes.

    Attributes:
        axes: Up to two axes.
        knots: Fractions of each axis, ascending to 1.
        ms: Milliseconds at each combination of knots.
    """

    axes: tuple[Axis, ...]
    knots: tuple[tuple[float, ...], ...]
    ms: FloatArray


@dataclass(frozen=True, eq=False)
class Surfaces:
    """The sum of surfaces as a function of widths: bilinear between knots, constant below the first.

    Dimension 0 of an array is the axis of a surface. A surface gets further axes with a single knot until it has two.

    Attributes:
        constant_ms: The part that does not change with the widths.
        position: Fractions of the axes as coefficients of ``(1, widths)``, shape ``(2, surface, 1 + site)``.
        knots: Ascending, shape ``(2, surface, knot)``; after the last come larger ones that are never reached.
        ms: Shape ``(surface, knot, knot)``.
    """

    constant_ms: float
    position: FloatArray
    knots: FloatArray
    ms: FloatArray

    @classmethod
    def build(cls, surfaces: Iterable[Surface], widths: Mapping[str, int]) -> "Surfaces":
        """The sum of surfaces; those with the same axes and knots become one.

        Args:
            surfaces: The surfaces.
            widths: Dense width of every site by name.
        """
        alike: dict[tuple[tuple[Axis, ...], tuple[tuple[float, ...], ...]], FloatArray] = {}
        for surface in surfaces:
            key = surface.axes, surface.knots
            alike[key] = alike.get(key, 0.0) + surface.ms
        size = max((len(knots) for _, both in alike for knots in both), default=1) + 1
        position = [[_affine(axes[n:], widths) for axes, _ in alike] for n in (0, 1)]
        knots = [[_padded(both[n] if n < len(both) else (1.0,), size) for _, both in alike] for n in (0, 1)]
        ms = [_extended(values, size) for values in alike.values()]
        return cls(
            0.0,
            np.array(position).reshape(2, len(alike), 1 + len(widths)),
            np.array(knots).reshape(2, len(alike), size),
            np.array(ms).reshape(len(alike), size, size),
        )

    def scaled(self, constant_ms: float, scale: float) -> "Surfaces":
        """All surfaces multiplied by `scale`, and the given constant."""
        return replace(self, constant_ms=constant_ms, ms=scale * self.ms)

    def evaluate(self, kept: IntArray) -> FloatArray:
        """See `scionet.budget.costs.CostPart`."""
        return np.array([self.constant_ms + self._at(np.arange(len(self.ms)), self._fractions(kept)).sum()])

    def shifts(self, kept: IntArray, site: IntArray, step: IntArray) -> FloatArray:
        """See `scionet.budget.costs.CostPart`."""
        surface, move = np.nonzero(self._touched[:, site])
        here = self._fractions(kept)[:, surface]
        change = self._at(surface, here + self._moved(surface, site[move], step[move])) - self._at(surface, here)
        return np.bincount(move, change, len(site)).astype(np.float64)[None]

    def interactions(
        self, kept: IntArray, site: IntArray, step: IntArray, other: IntArray, other_step: IntArray
    ) -> FloatArray:
        """See `scionet.budget.costs.CostPart`."""
        surface, move, mate = _joined(*np.nonzero(self._shared[:, site]), *np.nonzero(self._shared[:, other]))
        here = self._fractions(kept)[:, surface]
        first = self._moved(surface, site[move], step[move])
        second = self._moved(surface, other[mate], other_step[mate])
        both = self._at(surface, here + first + second) + self._at(surface, here)
        beyond = both - self._at(surface, here + first) - self._at(surface, here + second)
        total = np.bincount(move * len(other) + mate, beyond, len(site) * len(other)).astype(np.float64)
        return total.reshape(1, len(site), len(other))

    @cached_property
    def _touched(self) -> NDArray[np.bool_]:
        """Whether a surface changes with a site, shape ``(surface, site)``."""
        return (self.position[:, :, 1:] != 0).any(axis=0)

    @cached_property
    def _shared(self) -> NDArray[np.bool_]:
        """The same, but without surfaces that change with a single site."""
        return self._touched & (self._touched.sum(axis=1, keepdims=True) > 1)

    def _fractions(self, kept: IntArray) -> FloatArray:
        """The position of each surface on its axes, shape ``(2, surface)``."""
        return self.position @ np.concatenate(([1.0], kept))

    def _moved(self, surface: IntArray, site: IntArray, step: IntArray) -> FloatArray:
        """The shift of a surface on its axes by a move, shape ``(2, pair)``, for pairs of a surface and a move."""
        return self.position[:, surface, 1 + site] * step

    def _at(self, surface: IntArray, fractions: FloatArray) -> FloatArray:
        """Milliseconds of some surfaces, shape ``(n,)``, at fractions of their axes, shape ``(2, n)``."""
        (i, p), (j, q) = (_between(self.knots[n][surface], fractions[n]) for n in (0, 1))
        low = self.ms[surface, i, j] * (1 - q) + self.ms[surface, i, j + 1] * q
        high = self.ms[surface, i + 1, j] * (1 - q) + self.ms[surface, i + 1, j + 1] * q
        return low * (1 - p) + high * p


def rising(ms: FloatArray) -> FloatArray:
    """A table that rises along all axes: the mean of the least rising table above and the greatest one below.

    A wider operation that was measured as faster is noise, or a peculiarity that no allocation should exploit.
    """
    above, below = ms, ms
    for axis in range(ms.ndim):
        above = np.maximum.accumulate(above, axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis), axis)
    ramp = sum(np.indices(ms.shape)[axis] / max(ms.shape[axis] - 1, 1) for axis in range(ms.ndim))
    return (above + below) / 2 + _SLOPE * ms.max() * ramp


def _affine(axes: Sequence[Axis], widths: Mapping[str, int]) -> FloatArray:
    """The remaining fraction of the first axis as coefficients of ``(1, widths)``; constant 1 without an axis."""
    row = np.eye(1, 1 + len(widths))[0]
    names = list(widths)
    for site, share in axes[0].shares if axes else ():
        if site not in widths:  # it stays whole, without some branches
            continue
        row[0] -= share
        row[1 + names.index(site)] += share / widths[site]
    return row


def _padded(knots: Sequence[float], size: int) -> list[float]:
    return [*knots, *(knots[-1] + 1 + n for n in range(size - len(knots)))]


def _extended(ms: FloatArray, size: int) -> FloatArray:
    """A table of up to two axes, enlarged by repeating its last row and column."""
    table = ms.reshape(*ms.shape, *[1] * (2 - ms.ndim))
    return np.pad(table, [(0, size - length) for length in table.shape], mode="edge")


def _between(knots: FloatArray, at: FloatArray) -> tuple[IntArray, FloatArray]:
    """The last knot at or below each position, and the fraction of the way from there to the next knot.

    Args:
        knots: Shape ``(n, knot)``.
        at: Shape ``(n,)``.
    """
    below = np.clip((knots <= at[:, None]).sum(axis=1) - 1, 0, knots.shape[1] - 2)
    low, high = (np.take_along_axis(knots, below[:, None] + n, axis=1)[:, 0] for n in (0, 1))
    return below, np.clip((at - low) / (high - low), 0, 1)


def _joined(surface: IntArray, move: IntArray, other: IntArray, mate: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """All triples (surface, move, mate) of pairs with the same surface.

    Args:
        surface: Of each pair (surface, move), ascending.
        move: Of each pair.
        other: Of each pair (surface, mate), ascending.
        mate: Of each pair.
    """
    begin = np.searchsorted(other, surface)
    count = np.searchsorted(other, surface, side="right") - begin
    row = np.repeat(np.arange(len(surface)), count)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    return surface[row], move[row], mate[begin[row] + place]
