"""The widths that every site may take, and what steps between them cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from scionet.budget.budget import Budget, Caps
from scionet.budget.costs import Cost, CostModel
from scionet.budget.forms import FloatArray, IntArray
from scionet.errors import InvalidSetting, UnreachableBudget

TOLERANCE = 0.01
"""How far below its tightest limit an allocation may end, as a fraction of the dense cost."""

NO_CAPS: Mapping[str, int] = MappingProxyType({})
"""No site is held below its full width."""

_NEVER = 1e300
_ROUNDING = 1e-9
"""CostPart of the dense latency that is left free, because its sums are rounded; those of whole numbers are exact."""


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

    def one(self, index: int, at: IntArray) -> IntArray:
        """The rungs after one of the moves is made."""
        moved = at.copy()
        moved[self.site[index]] = self.to[index]
        return moved


@dataclass(frozen=True, eq=False)
class Ladder:
    """The widths that every site may take, from narrow to whole, under a budget.

    A *rung* is the position of a width among those that its site may take; an allocation is one rung per site, an
    integer array of shape ``(site,)``, called `at`.

    Attributes:
        model: The costs.
        budget: The limits.
        widths: Width at each rung, shape ``(site, rung)``; shorter rows repeat their last width.
        top: The last rung of each site, shape ``(site,)``: the whole site, or the most it may keep.
    """

    model: CostModel
    budget: Budget
    widths: IntArray
    top: IntArray

    @classmethod
    def build(
        cls,
        model: CostModel,
        budget: Budget,
        *,
        round_to: int = 1,
        min_units: int = 1,
        most: Mapping[str, int] = NO_CAPS,
        allowed: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> "Ladder":
        """The multiples of `round_to` from `min_units` on, and the full width; a narrower site stays whole.

        Args:
            model: The costs.
            budget: The limits.
            round_to: What kept widths are multiples of, except the full width and numbers of heads.
            min_units: The fewest units a site keeps.
            most: The most units a site keeps; its narrowest width stays allowed.
            allowed: Which of the widths ``0..N`` of a site are allowed at all, shape ``(N + 1,)``.

        Raises:
            InvalidSetting: If `round_to` or `min_units` is below 1, or latency is limited and was not measured.
            UnreachableBudget: If even the narrowest network exceeds a limit.
        """
        if round_to < 1 or min_units < 1:
            raise InvalidSetting(f"round_to and min_units must be at least 1; given {round_to} and {min_units}")
        rows = []
        for name, full in zip(model.names, model.full.tolist(), strict=True):
            step = 1 if model.sites[name].unit == "head" else round_to
            row = np.append(np.arange(step * -(-min_units // step), full, step), full)
            row = row[row <= max(most.get(name, full), row[0])]
            rows.append(row if allowed is None else row[allowed[name][row]])
        top = np.array([len(row) - 1 for row in rows], dtype=np.int64)
        columns = np.arange(max(top, default=0) + 1)
        widths = np.array([row[np.minimum(columns, len(row) - 1)] for row in rows], dtype=np.int64)
        ladder = cls(model, budget, widths.reshape(len(rows), len(columns)), top)
        ladder._check_reachable()
        return ladder

    def kept(self, at: IntArray) -> IntArray:
        """Widths at the given rungs, shape ``(site,)``."""
        return self.widths[self.everyone, at]

    def below(self, most: FloatArray | IntArray) -> IntArray:
        """The highest rung of each site of at most so many units, ``(site,)``; the lowest where there is none."""
        return np.clip((self.widths <= most[:, None]).sum(axis=1) - 1, 0, self.top)

    def largest(self, rungs: Callable[[float], IntArray], high: float) -> float:
        """The largest number up to `high`, by bisection, whose rungs fit, where larger numbers mean no lower rungs."""
        low = 0.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self.slack(rungs(middle)) >= 0 else (low, middle)
        return low

    def named(self, at: IntArray) -> dict[str, int]:
        """Widths at the given rungs by name of the site."""
        return dict(zip(self.model.names, self.kept(at).tolist(), strict=True))

    def cost(self, at: IntArray) -> Cost:
        """The cost at the given rungs."""
        return self.model.cost(self.named(at))

    def room(self, at: IntArray) -> FloatArray:
        """What is left below each limit, shape ``(quantity,)``: negative beyond it, infinite where there is none."""
        return self.caps - self.model.evaluate(self.kept(at))

    def slack(self, at: IntArray) -> float:
        """What is left below the tightest limit, as a fraction of the dense cost."""
        return float(np.min(self.room(at) / self.scale))

    def shifts(self, at: IntArray, moves: Moves) -> FloatArray:
        """How each move alone changes the costs, shape ``(quantity, move)``."""
        return self.model.shifts(self.kept(at), moves.site, self._steps(at, moves))

    def left(self, at: IntArray, moves: Moves, others: Moves) -> FloatArray:
        """What is left below each limit after a pair of moves, shape ``(quantity, move, other move)``.

        Two moves of the same site exclude each other, unless one of them stays where it is: such a pair never fits.
        """
        steps, other_steps = self._steps(at, moves), self._steps(at, others)
        alone = self.shifts(at, moves)[:, :, None] + self.shifts(at, others)[:, None, :]
        change = alone + self.model.interactions(self.kept(at), moves.site, steps, others.site, other_steps)
        clash = (moves.site[:, None] == others.site) & (np.multiply.outer(steps, other_steps) != 0)
        return self.room(at)[:, None, None] - np.where(clash, _NEVER, change)

    def slacks(self, at: IntArray, moves: Moves, others: Moves) -> FloatArray:
        """What is left below the tightest limit after a pair of moves, shape ``(move, other move)``."""
        return np.min(self.left(at, moves, others) / self.scale[:, None, None], axis=0)

    def exchanged(self, at: IntArray, moves: Moves, others: Moves, pair: int) -> IntArray:
        """The rungs after a pair of moves, given by its position in a flattened ``(move, other move)`` array."""
        first, second = divmod(pair, len(others.site))
        return moves.one(first, at) + others.one(second, at) - at

    @property
    def everything_fits(self) -> bool:
        """Whether the dense network, or all that sites may keep, is within the budget."""
        return self.budget.met(self.model.dense, self.model.dense) or self.slack(self.top) >= 0

    def climb(self, at: IntArray, rungs: IntArray | int) -> Moves:
        """One move per site, so many rungs up (negative: down), at most to the end of the ladder."""
        return Moves(self.everyone, np.clip(at + rungs, 0, self.top))

    @cached_property
    def everyone(self) -> IntArray:
        """Positions of all sites."""
        return np.arange(len(self.top))

    @cached_property
    def caps(self) -> FloatArray:
        """The limits in absolute numbers, shape ``(quantity,)``."""
        rounded = np.array([quantity == "latency_ms" for quantity in self.model.quantities])
        return self._amounts(self.budget.absolute(self.model.dense)) - _ROUNDING * self.scale * rounded

    @cached_property
    def scale(self) -> FloatArray:
        """The dense costs, shape ``(quantity,)``."""
        dense = self._amounts(self.model.dense)
        return np.where(dense > 0, dense, 1.0)

    def _amounts(self, values: Cost | Caps) -> FloatArray:
        """The quantities that the model knows, shape ``(quantity,)``."""
        return np.array([getattr(values, quantity) for quantity in self.model.quantities])

    def _steps(self, at: IntArray, moves: Moves) -> IntArray:
        return self.widths[moves.site, moves.to] - self.kept(at)[moves.site]

    def _check_reachable(self) -> None:
        lowest = np.zeros_like(self.top)
        if not self.everything_fits and self.slack(lowest) < 0:
            raise UnreachableBudget(
                f"the budget {self.budget} cannot be reached: the smallest network these sites allow has "
                f"{describe(self.cost(lowest), self.model.dense)}; raise the budget, or lower round_to or min_units, "
                f"or ignore fewer layers"
            )


def describe(cost: Cost, dense: Cost) -> str:
    """A cost beside the dense one, for a person to read."""
    parts = [f"macs {cost.macs / max(dense.macs, 1):.2%}", f"params {cost.params / max(dense.params, 1):.2%}"]
    if cost.latency_ms is not None and dense.latency_ms:
        parts.append(f"latency {cost.latency_ms / dense.latency_ms:.2%}")
    return f"{cost} ({', '.join(parts)} of the dense network)"
