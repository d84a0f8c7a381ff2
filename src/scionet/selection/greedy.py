"""Greedy forward selection: repeatedly pick the unit with the largest gain."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic

import numpy as np

from scionet.errors import InvalidSetting
from scionet.selection.objective import Objective, State
from scionet.selection.policies import EXACT, Policy
from scionet.typing import IntArray


class Status(Enum):
    """Why a selection ended."""

    REACHED = "the requested number of units was selected"
    ENOUGH = "the stop rule was satisfied before the requested number of units was selected"
    SATURATED = (
        "selection with repetition stopped adding new units before the requested number was reached; "
        "repeats were forbidden from there on"
    )
    EXHAUSTED = "every unit was tried, and fewer units than requested were kept"
    REPLAYED = "the units were picked in a given order"


@dataclass(frozen=True)
class Selection:
    """The kept units and the sequence of picks.

    Attributes:
        kept: Units with nonzero weight, ascending.
        order: Units in the order in which they were picked. A unit that was picked twice appears twice.
        values: The objective's value after each pick.
        weights: Multiplier of each kept unit.
        status: Why the selection ended.
        certified: Lower bound on the selection's share of the best possible gain; None if it was not computed.
    """

    kept: tuple[int, ...]
    order: tuple[int, ...]
    values: tuple[float, ...]
    weights: tuple[float, ...]
    status: Status
    certified: float | None = None


def greedy(
    objective: Objective[Any],
    n_units: int,
    *,
    policy: Policy = EXACT,
    among: IntArray | None = None,
    repetition: bool = False,
    rng: np.random.Generator | None = None,
    enough: Callable[[float], bool] | None = None,
    max_picks_per_unit: int = 20,
    patience_per_unit: int = 10,
) -> Selection:
    """Pick the candidate with the largest gain until `n_units` distinct units are kept. Ties go to the lowest index.

    With repetition, only extreme points of the convex hull of the units' outputs are ever picked, so the number of
    distinct units saturates. Repeats are forbidden after ``max_picks_per_unit * n_units`` picks, or after
    ``patience_per_unit * n_units`` picks without a new unit. The status then says so.

    Source: Ye et al., *Good Subnetworks Provably Exist*, ICML 2020, Algorithm 1. The released code never repeats a unit
    and always samples 50 candidates; here, both are options.

    Args:
        objective: Objective to maximise.
        n_units: Number of distinct units to keep. If the objective cannot keep that many, every unit is tried.
        policy: Which candidates are evaluated at each step.
        among: Units that may be picked; all by default.
        repetition: Whether a unit may be picked again, which raises its weight.
        rng: Random generator, for policies that need one.
        enough: Stop rule, called with the value after each pick.
        max_picks_per_unit: Cap on picks with repetition, per requested unit.
        patience_per_unit: Cap on picks without a new unit, per requested unit.

    Raises:
        InvalidSetting: If a number is negative, a generator is missing, or the policy relies on facts that the
            objective does not have.
        CalibrationError: If a gain is NaN or infinite.
    """
    _check(n_units, max_picks_per_unit, patience_per_unit)
    policy.check(objective)
    pick = policy.picker(objective, n_units, rng)
    run = _Run(objective, objective.start())
    allowed = np.zeros(objective.size, dtype=bool)
    allowed[slice(None) if among is None else among] = True
    available = allowed.copy()
    saturated = False
    while run.n_kept < n_units:
        candidates = np.flatnonzero(available)
        if not candidates.size:
            return run.end(Status.SATURATED if saturated else Status.EXHAUSTED)
        unit = pick(run.state, candidates)
        run.take(unit)
        available[unit] = repetition and not saturated
        if enough is not None and enough(run.values[-1]):
            return run.end(Status.ENOUGH)
        if repetition and not saturated and run.n_kept < n_units:
            saturated = run.stalled(max_picks_per_unit * n_units, patience_per_unit * n_units)
            available = allowed & (objective.weights(run.state) == 0) if saturated else available
    return run.end(Status.SATURATED if saturated else Status.REACHED)


def picked(objective: Objective[Any], n_picks: int, *, repetition: bool = True) -> Selection:
    """Pick the candidate with the largest gain a number of times, whatever number of distinct units that keeps.

    Args:
        objective: Objective to maximise.
        n_picks: Number of picks. Without repetition, it ends when no unit is left.
        repetition: Whether a unit may be picked again.

    Raises:
        InvalidSetting: If the number is negative.
        CalibrationError: If a gain is NaN or infinite.
    """
    _check(n_picks, 1, 1)
    pick, run = EXACT.picker(objective, n_picks, None), _Run(objective, objective.start())
    available = np.ones(objective.size, dtype=bool)
    for _ in range(n_picks):
        candidates = np.flatnonzero(available)
        if not candidates.size:
            return run.end(Status.EXHAUSTED)
        unit = pick(run.state, candidates)
        run.take(unit)
        available[unit] = repetition
    return run.end(Status.REACHED)


def replay(objective: Objective[Any], order: Iterable[int], n_units: int | None = None) -> Selection:
    """Pick units in a given order and record the objective's values.

    Args:
        objective: Objective to evaluate.
        order: Units, in the order in which they are picked.
        n_units: Stop as soon as this many distinct units are kept.
    """
    run = _Run(objective, objective.start())
    for unit in order:
        if n_units is not None and run.n_kept >= n_units:
            break
        run.take(int(unit))
    return run.end(Status.REPLAYED)


def prefix(objective: Objective[Any], path: Selection, n_units: int) -> Selection:
    """The first `n_units` of a larger selection. Greedy selections are nested, so this is the smaller selection.

    Free for a set function. For other objectives the picks are replayed, since all weights depend on the number of
    picks.

    Args:
        objective: The objective of the larger selection.
        path: A selection of at least `n_units`.
        n_units: Number of distinct units to keep.

    Raises:
        InvalidSetting: If the larger selection has fewer units.
    """
    if not 0 <= n_units <= len(path.kept):
        raise InvalidSetting(f"n_units must be from 0 to {len(path.kept)}, the size of the selection; given {n_units}")
    return shortened(path, n_units) if objective.facts else replay(objective, path.order, n_units)


def shortened(path: Selection, n_units: int) -> Selection:
    """The first `n_units` distinct units of a selection whose objective is a set function."""
    n_picks = _picks_for(path.order, n_units)
    order = path.order[:n_picks]
    kept = tuple(sorted(set(order)))
    return Selection(kept, order, path.values[:n_picks], (1.0,) * len(kept), Status.REPLAYED)


@dataclass
class _Run(Generic[State]):
    """A selection in progress."""

    objective: Objective[State]
    state: State
    order: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    n_kept: int = 0
    widest: int = 0
    last_growth: int = 0

    def take(self, unit: int) -> None:
        self.state = self.objective.commit(self.state, unit)
        self.order.append(unit)
        self.values.append(self.objective.value(self.state))
        self.n_kept = int(np.count_nonzero(self.objective.weights(self.state)))
        if self.n_kept > self.widest:
            self.widest, self.last_growth = self.n_kept, len(self.order)

    def stalled(self, max_picks: int, patience: int) -> bool:
        return len(self.order) >= max_picks or len(self.order) - self.last_growth >= patience

    def end(self, status: Status) -> Selection:
        weights = self.objective.weights(self.state)
        kept = np.flatnonzero(weights)
        return Selection(
            tuple(kept.tolist()), tuple(self.order), tuple(self.values), tuple(weights[kept].tolist()), status
        )


def _picks_for(order: tuple[int, ...], n_units: int) -> int:
    """Number of picks after which `n_units` distinct units have been picked."""
    seen: set[int] = set()
    for count, unit in enumerate(order):
        if len(seen) == n_units:
            return count
        seen.add(unit)
    return len(order)


def _check(n_units: int, max_picks_per_unit: int, patience_per_unit: int) -> None:
    if n_units < 0:
        raise InvalidSetting(f"n_units must be at least 0; given {n_units}")
    if min(max_picks_per_unit, patience_per_unit) < 1:
        raise InvalidSetting(
            f"max_picks_per_unit and patience_per_unit must be at least 1; given {max_picks_per_unit} and "
            f"{patience_per_unit}"
        )
