"""The widths that every site may take, and the change of cost by steps between them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from scionet.budget.budget import QUANTITIES, Budget, Caps
from scionet.budget.costs import Cost, CostModel
from scionet.errors import InvalidSetting, UnreachableBudget
from scionet.typing import FloatArray, IntArray

NO_MAXIMUM: Mapping[str, int] = MappingProxyType({})
"""Every site may stay whole."""

SAME = 1e-9
"""Relative difference up to which two predicted errors count as equal."""

_NEVER = 1e300
_ROUNDING = 1e-9
"""Fraction of the dense latency that stays unused, because sums of times are rounded. Sums of MACs are exact."""


@dataclass(frozen=True, eq=False)
class Moves:
    """Changes of one site each.

    Attributes:
        site: Position of the site that moves, shape ``(move,)``.
        to: The rung it moves to, shape ``(move,)``.
    """

    site: IntArray
    to: IntArray

    def __or__(self, other: "Moves") -> "Moves":
        """Both lists of moves, one after the other."""
        return Moves(np.concatenate((self.site, other.site)), np.concatenate((self.to, other.to)))

    def only(self, where: NDArray[np.bool_]) -> "Moves":
        """The moves where a mask of shape ``(move,)`` holds."""
        return Moves(self.site[where], self.to[where])

    def one(self, index: int, rungs: IntArray) -> IntArray:
        """The rungs after one of the moves is made."""
        moved = rungs.copy()
        moved[self.site[index]] = self.to[index]
        return moved


@dataclass(frozen=True, eq=False)
class Ladder:
    """The widths that every site may take, from narrow to wide, under a budget.

    A *rung* is the position of a width among those that its site may take. An allocation is one rung per site: an
    integer array of shape ``(site,)``, called `rungs`.

    Attributes:
        costs: The cost model of the network.
        budget: The limits.
        widths: Width at each rung, shape ``(site, rung)``; shorter rows repeat their last width.
        top: The last rung of each site, shape ``(site,)``.
    """

    costs: CostModel
    budget: Budget
    widths: IntArray
    top: IntArray

    @classmethod
    def build(
        cls,
        costs: CostModel,
        budget: Budget,
        *,
        round_to: int = 1,
        min_units: int = 1,
        max_units: Mapping[str, int] = NO_MAXIMUM,
        errors: Mapping[str, FloatArray] | None = None,
    ) -> "Ladder":
        """The multiples of `round_to` from `min_units` on, and the full width; a narrower site stays whole.

        Args:
            costs: The cost model of the network.
            budget: The limits.
            round_to: Kept widths are multiples of this, except the full width and numbers of heads.
            min_units: The fewest units a site keeps.
            max_units: The most units a site keeps; its narrowest width stays allowed.
            errors: Predicted error of each site at the widths ``0..N``, nowhere rising, shape ``(N + 1,)``. Widths of
                infinite error are left out, and those whose error equals that of a narrower one.

        Raises:
            InvalidSetting: If `round_to` or `min_units` is below 1, or latency is limited and was not measured.
            UnreachableBudget: If even the narrowest network exceeds a limit.
        """
        if round_to < 1 or min_units < 1:
            raise InvalidSetting(f"round_to and min_units must be at least 1; given {round_to} and {min_units}")
        rows = []
        for name, full in zip(costs.names, costs.full.tolist(), strict=True):
            step = 1 if costs.sites[name].unit == "head" else round_to
            row = np.append(np.arange(step * -(-min_units // step), full, step), full)
            row = row[row <= max(max_units.get(name, full), row[0])]
            rows.append(row if errors is None else _useful(row, errors[name][row]))
        top = np.array([len(row) - 1 for row in rows], dtype=np.int64)
        columns = np.arange(max(top, default=0) + 1)
        widths = np.array([row[np.minimum(columns, len(row) - 1)] for row in rows], dtype=np.int64)
        ladder = cls(costs, budget, widths.reshape(len(rows), len(columns)), top)
        ladder._refuse_unreachable()
        return ladder

    def kept(self, rungs: IntArray) -> IntArray:
        """Widths at the given rungs, shape ``(site,)``."""
        return self.widths[self.all_sites, rungs]

    def below(self, widths: FloatArray | IntArray) -> IntArray:
        """The highest rung of each site that is at most the given width, or the lowest rung, shape ``(site,)``."""
        return np.clip((self.widths <= widths[:, None]).sum(axis=1) - 1, 0, self.top)

    def largest(self, rungs_of: Callable[[float], IntArray], high: float) -> float:
        """The largest number up to `high` whose rungs fit, by bisection. Larger numbers must not give lower rungs."""
        low = 0.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.slack(rungs_of(middle)) >= 0 else (low, middle)
        return low

    def named(self, rungs: IntArray) -> dict[str, int]:
        """Widths at the given rungs, by name of the site."""
        return dict(zip(self.costs.names, self.kept(rungs).tolist(), strict=True))

    def room(self, rungs: IntArray) -> FloatArray:
        """The remaining amount below each limit, ``(quantity,)``: negative beyond it, infinite without a limit."""
        return self.limits - self.costs.evaluate(self.kept(rungs))

    def slack(self, rungs: IntArray) -> float:
        """The remaining amount below the tightest limit, as a fraction of the dense cost."""
        return float(np.min(self.room(rungs) / self.scale))

    def shifts(self, rungs: IntArray, moves: Moves) -> FloatArray:
        """The change of cost by each move alone, shape ``(quantity, move)``."""
        return self.costs.shifts(self.kept(rungs), moves.site, self._steps(rungs, moves))

    def left(self, rungs: IntArray, moves: Moves, others: Moves) -> FloatArray:
        """The remaining amount below each limit after a pair of moves, shape ``(quantity, move, other move)``.

        Two moves of the same site exclude each other, unless one of them stays where it is: such a pair never fits.
        """
        steps, other_steps = self._steps(rungs, moves), self._steps(rungs, others)
        alone = self.shifts(rungs, moves)[:, :, None] + self.shifts(rungs, others)[:, None, :]
        change = alone + self.costs.interactions(self.kept(rungs), moves.site, steps, others.site, other_steps)
        clash = (moves.site[:, None] == others.site) & (np.multiply.outer(steps, other_steps) != 0)
        return self.room(rungs)[:, None, None] - np.where(clash, _NEVER, change)

    def slacks(self, rungs: IntArray, moves: Moves, others: Moves) -> FloatArray:
        """The remaining amount below the tightest limit after a pair of moves, shape ``(move, other move)``."""
        return np.min(self.left(rungs, moves, others) / self.scale[:, None, None], axis=0)

    def exchanged(self, rungs: IntArray, moves: Moves, others: Moves, pair: int) -> IntArray:
        """The rungs after a pair of moves, given by its position in a flattened ``(move, other move)`` array."""
        first, second = divmod(pair, len(others.site))
        return moves.one(first, rungs) + others.one(second, rungs) - rungs

    @property
    def everything_fits(self) -> bool:
        """Whether all sites can be at their last rung."""
        return self.budget.met(self.costs.cost(self.named(self.top)), self.costs.dense)

    def climb(self, rungs: IntArray, steps: IntArray | int) -> Moves:
        """One move per site, by a number of rungs up (negative: down), at most to the end of the ladder."""
        return Moves(self.all_sites, np.clip(rungs + steps, 0, self.top))

    @cached_property
    def all_sites(self) -> IntArray:
        """Positions of all sites."""
        return np.arange(len(self.top))

    @cached_property
    def limits(self) -> FloatArray:
        """The limits in absolute numbers, shape ``(quantity,)``."""
        rounded = np.array([quantity == "latency_ms" for quantity in self.costs.quantities])
        return self._amounts(self.budget.absolute(self.costs.dense)) - _ROUNDING * self.scale * rounded

    @cached_property
    def scale(self) -> FloatArray:
        """The dense costs, shape ``(quantity,)``."""
        dense = self._amounts(self.costs.dense)
        return np.where(dense > 0, dense, 1.0)

    def _amounts(self, values: Cost | Caps) -> FloatArray:
        """The known quantities, shape ``(quantity,)``."""
        return np.array([getattr(values, quantity) for quantity in self.costs.quantities])

    def _steps(self, rungs: IntArray, moves: Moves) -> IntArray:
        return self.widths[moves.site, moves.to] - self.kept(rungs)[moves.site]

    def _refuse_unreachable(self) -> None:
        lowest = np.zeros_like(self.top)
        if not self.everything_fits and self.slack(lowest) < 0:
            dense = self.costs.dense
            cost = self.costs.cost(self.named(lowest))
            raise UnreachableBudget(
                f"the budget {self.budget} cannot be reached: the smallest network these sites allow has "
                f"{cost} ({in_percent(cost, dense)} of the dense network); raise the budget, or lower round_to or "
                "min_units, or ignore fewer layers"
            )


def in_percent(cost: Cost, dense: Cost, quantities: Collection[str] = QUANTITIES) -> str:
    """The given quantities of a cost in percent of the dense one, as readable text."""
    amounts = [(quantity, getattr(cost, field), getattr(dense, field)) for quantity, field in QUANTITIES.items()]
    known = [(quantity, a, b) for quantity, a, b in amounts if quantity in quantities and a is not None]
    return ", ".join(f"{quantity} {amount / (whole or 1):.2%}" for quantity, amount, whole in known)


def _useful(widths: IntArray, errors: FloatArray) -> IntArray:
    """The widths of finite error, without those whose error equals that of a narrower one."""
    widths, errors = widths[np.isfinite(errors)], errors[np.isfinite(errors)]
    levels = np.rint((errors - errors[-1]) / max(SAME * errors[0], np.finfo(np.float64).tiny))
    return widths[np.unique(-levels, return_index=True)[1]]
