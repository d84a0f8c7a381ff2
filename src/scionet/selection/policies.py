"""Which candidates a greedy step evaluates: all, a random sample, or only those that may still be the best."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scionet.errors import CalibrationError, InvalidSetting
from scionet.selection.objective import Fact, Objective
from scionet.typing import FloatArray, IntArray

TIE = 1e-10
"""Gains within this fraction of the best gain are tied, so that rounding does not decide between equal units."""

Picker = Callable[[Any, IntArray], int]
"""Maps the current state and the ascending candidates to the unit to pick. Ties go to the lowest index."""


class Policy(ABC):
    """How a greedy step finds the best candidate.

    Attributes:
        needs: Facts that an objective must have.
    """

    needs: frozenset[Fact] = frozenset()

    @abstractmethod
    def picker(self, objective: Objective[Any], n_units: int, rng: np.random.Generator | None) -> Picker:
        """Make a picker for one selection; it may keep state between steps.

        Args:
            objective: Objective to maximise.
            n_units: Requested number of units.
            rng: Random generator, for policies that need one.
        """

    def check(self, objective: Objective[Any]) -> None:
        """Check that an objective has the required facts.

        Raises:
            InvalidSetting: If it lacks one.
        """
        missing = self.needs - objective.facts
        if missing:
            reasons = "; ".join(f"{fact.name.lower()} ({fact.value})" for fact in missing)
            raise InvalidSetting(
                f"policy {type(self).__name__} relies on facts that {type(objective).__name__} does not have: "
                f"{reasons}. Use the exact or the stochastic policy"
            )


@dataclass(frozen=True)
class ExactPolicy(Policy):
    """Evaluate every candidate at every step."""

    def picker(self, objective: Objective[Any], n_units: int, rng: np.random.Generator | None) -> Picker:
        """Evaluate all candidates."""
        return lambda state, candidates: best(candidates, objective.gains(state, candidates))


EXACT = ExactPolicy()


@dataclass(frozen=True)
class StochasticPolicy(Policy):
    """Evaluate a new random sample of the candidates at each step.

    Source: Mirzasoleiman et al., *Lazier Than Lazy Greedy*, AAAI 2015. For a monotone submodular objective, the
    expected value is at least ``1 - 1/e - epsilon`` of the best one, with ``N ln(1/epsilon)`` evaluations in total.

    Attributes:
        epsilon: Sets the sample size to ``ceil((N / n_units) ln(1 / epsilon))``; inside (0, 1).
        sample_size: A fixed sample size in place of that (50 in the released code of GFS, ICML 2020).
    """

    epsilon: float = 0.1
    sample_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InvalidSetting: If epsilon is outside (0, 1) or the sample is empty.
        """
        if not 0 < self.epsilon < 1:
            raise InvalidSetting(f"epsilon must lie inside (0, 1), 0.1 is usual; given {self.epsilon}")
        if self.sample_size is not None and self.sample_size < 1:
            raise InvalidSetting(f"sample_size must be at least 1, or None to use epsilon; given {self.sample_size}")

    def picker(self, objective: Objective[Any], n_units: int, rng: np.random.Generator | None) -> Picker:
        """Evaluate a sample of the candidates without replacement.

        Raises:
            InvalidSetting: If there is no random generator.
        """
        if rng is None:
            raise InvalidSetting("a stochastic policy needs a generator: pass rng=np.random.default_rng(seed)")

        def pick(state: Any, candidates: IntArray) -> int:
            # from all units N, not from those of one worker's share
            size = self.sample_size or math.ceil(objective.size / n_units * math.log(1 / self.epsilon))
            if size < len(candidates):
                candidates = np.sort(rng.choice(candidates, size, replace=False))
            return best(candidates, objective.gains(state, candidates))

        return pick


@dataclass(frozen=True)
class Lazy(Policy):
    """Re-evaluate a candidate only while its last known gain could still be the best. Makes the same picks as `Exact`.

    An old gain is an upper bound on the current one only if the objective is submodular, so others are refused.

    Source: Minoux, *Accelerated greedy algorithms for maximizing submodular set functions*, 1978.
    """

    needs = frozenset({Fact.SUBMODULAR})

    def picker(self, objective: Objective[Any], n_units: int, rng: np.random.Generator | None) -> Picker:
        """Pick by the last known gain of each unit."""
        bounds = np.full(objective.size, np.inf)

        def evaluate(state: Any, units: IntArray) -> None:
            bounds[units] = _checked_gains(units, objective.gains(state, units))

        def pick(state: Any, candidates: IntArray) -> int:
            fresh = np.zeros(len(candidates), dtype=bool)
            if np.isinf(bounds[candidates]).all():
                evaluate(state, candidates)
                fresh[:] = True
            while True:
                known = bounds[candidates]
                top = known[fresh].max(initial=-math.inf)
                stale = np.where(fresh, -math.inf, known)
                next_up = int(stale.argmax())
                if stale[next_up] < _tie_threshold(top):
                    return int(candidates[np.argmax(fresh & (known >= _tie_threshold(top)))])
                evaluate(state, candidates[next_up : next_up + 1])
                fresh[next_up] = True

        return pick


def best(candidates: IntArray, gains: FloatArray) -> int:
    """The candidate with the largest gain. Candidates ascend; ties go to the lowest index."""
    return int(candidates[np.argmax(gains >= _tie_threshold(_checked_gains(candidates, gains).max()))])


def _tie_threshold(gain: float) -> float:
    """The smallest gain that is tied with the best one."""
    return gain - TIE * abs(gain) if math.isfinite(gain) else gain


def _checked_gains(candidates: IntArray, gains: FloatArray) -> FloatArray:
    """Return the gains.

    Raises:
        CalibrationError: If a gain is NaN or infinite.
    """
    if not gains.max() < math.inf:
        bad = candidates[~(gains < math.inf)]
        raise CalibrationError(
            f"the gains of {len(bad)} of {len(candidates)} units, the first being unit {bad[0]}, are NaN or infinite; "
            "check the calibration data and the network for NaN and infinite values"
        )
    return gains
