"""Guarantees for greedy selection: a priori bounds and certificates for a finished selection.

All bounds hold for monotone objectives and are relative to the value of the empty set. ``gamma`` is the submodularity
ratio: 1 or more for submodular objectives, between 0 and 1 for weakly submodular ones.
"""

import math
from itertools import combinations
from typing import Any

import numpy as np

from scionet.errors import InvalidSetting
from scionet.selection.greedy import Selection, replay
from scionet.selection.objective import Fact, Objective

_MAX_ENUMERATED = 16
"""Largest number of units for which the submodularity ratio is enumerated."""


def greedy_factor(gamma: float = 1.0) -> float:
    """Share of the best value that greedy selection reaches: ``1 - exp(-gamma)``.

    Source: Das, Kempe, ICML 2011, Theorem 3.2, with gamma for the selected set and its size.
    """
    return 1.0 - math.exp(-_ratio(gamma))


def stochastic_factor(epsilon: float, gamma: float = 1.0) -> float:
    """Share that stochastic greedy selection reaches on average: ``1 - exp(-gamma (1 - epsilon))``.

    Source: Khanna et al., AISTATS 2017, from the gain of one step. At least ``1 - exp(-gamma) - epsilon``.

    Raises:
        InvalidSetting: If epsilon lies outside (0, 1), or gamma is negative.
    """
    if not 0 < epsilon < 1:
        raise InvalidSetting(f"epsilon must lie inside (0, 1); given {epsilon}")
    return 1.0 - math.exp(-_ratio(gamma) * (1.0 - epsilon))


def distributed_factor(gamma: float = 1.0, nu: float = 1.0) -> float:
    """Share that distributed greedy selection reaches on average: ``(nu / 2) (1 - exp(-gamma))``.

    Args:
        gamma: Submodularity ratio.
        nu: Subadditivity ratio, at most 1; 1 for submodular objectives.

    Source: Khanna et al., AISTATS 2017.
    """
    return _ratio(nu) / 2 * greedy_factor(gamma)


def submodularity_ratio(objective: Objective[Any], chosen: tuple[int, ...], size: int) -> float:
    """Compute the submodularity ratio from its definition.

    It is the minimum of ``sum_{s in S} f(s | L) / f(S | L)`` over all L within `chosen` and all S outside L of up to
    `size` units. The cost is exponential in both, so this is for small problems and tests. For larger ones, see
    `LeastSquares.spectral_ratio`.

    Source: Das, Kempe, *Submodular meets Spectral*, ICML 2011, Definition 2.3.

    Args:
        objective: A monotone set function of at most 16 units.
        chosen: Units from which L is formed.
        size: Maximum number of units in S.

    Raises:
        InvalidSetting: If the objective is too large or not a monotone set function.
    """
    if objective.size > _MAX_ENUMERATED or Fact.MONOTONE not in objective.facts:
        raise InvalidSetting(
            f"the submodularity ratio is enumerated only for monotone set functions of at most {_MAX_ENUMERATED} "
            f"units; given {type(objective).__name__} of {objective.size} units"
        )
    values: dict[frozenset[int], float] = {}

    def value(units: frozenset[int]) -> float:
        if units not in values:
            values[units] = set_value(objective, tuple(sorted(units)))
        return values[units]

    ratios = [math.inf]
    for before in _subsets(tuple(sorted(set(chosen))), len(chosen)):
        rest = tuple(unit for unit in range(objective.size) if unit not in before)
        alone = {unit: value(before | {unit}) - value(before) for unit in rest}
        for added in _subsets(rest, size):
            together = value(before | added) - value(before)
            if together > 1e-12:
                ratios.append(sum(alone[unit] for unit in added) / together)
    return min(ratios)


def best_possible(objective: Objective[Any], kept: tuple[int, ...], gamma: float = 1.0) -> float:
    """Upper bound on the value of every set of the same size as `kept`, from the remaining gains.

    ``f(OPT) <= f(S) + (1 / gamma) * (sum of the |S| largest gains)``, capped at the value of all units together.

    Args:
        objective: A monotone set function.
        kept: The selected units.
        gamma: A lower bound on the submodularity ratio; 1 for submodular objectives, 0 if none is known.

    Raises:
        InvalidSetting: If the objective is not a monotone set function, or gamma is negative.
    """
    if Fact.MONOTONE not in objective.facts:
        raise InvalidSetting(f"a certificate requires a monotone set function; {type(objective).__name__} is not one")
    value_of_all = set_value(objective, tuple(range(objective.size)))
    if _ratio(gamma) == 0.0:
        return value_of_all
    state = objective.start()
    for unit in kept:
        state = objective.commit(state, unit)
    value, rest = objective.value(state), np.setdiff1d(np.arange(objective.size), kept)
    gains = np.sort(objective.gains(state, rest))[::-1][: len(kept)] if len(rest) else np.zeros(0)
    return min(value_of_all, value + float(np.maximum(gains, 0.0).sum()) / gamma)


def certified_share(objective: Objective[Any], selection: Selection, gamma: float = 1.0) -> float:
    """Lower bound on a selection's share of the best possible gain over the empty set, from 0 to 1."""
    empty = objective.value(objective.start())
    bound = best_possible(objective, selection.kept, gamma) - empty
    return min(1.0, (set_value(objective, selection.kept) - empty) / bound) if bound > 0 else 1.0


def set_value(objective: Objective[Any], units: tuple[int, ...]) -> float:
    """The value of a set."""
    return replay(objective, units).values[-1] if units else objective.value(objective.start())


def _subsets(units: tuple[int, ...], largest: int) -> list[frozenset[int]]:
    return [frozenset(c) for n in range(min(largest, len(units)) + 1) for c in combinations(units, n)]


def _ratio(given: float) -> float:
    """Return the ratio.

    Raises:
        InvalidSetting: If it is negative or NaN.
    """
    if not given >= 0:
        raise InvalidSetting(f"a ratio must be at least 0; given {given}")
    return given
