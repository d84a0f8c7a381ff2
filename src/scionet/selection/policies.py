"""Which candidates a greedy step looks at: all, a random sample, or only those that may still be the best."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scionet.errors import CalibrationError, InvalidSetting
from scionet.selection.objective import Fact, FloatArray, IntArray, Objective

TIE = 1e-10
"""Gains that differ by less than this fraction of the best one are tied: rounding must not choose between twins."""

Picker = Callable[[Any, IntArray], int]
"""From the present state and the candidates, ascending, the one to take: the lowest index among ties."""


class Policy(ABC):
    """How the best candidate of a step is found.

    Attributes:
        needs: Facts without which an objective is refused.
    """

    needs: frozenset[Fact] = frozenset()

    @abstractmethod
    def picker(self, objective: Objective[Any], n_units: int, rng: np.random.Generator | None) -> Picker:
        """A picker for one run; it may remember what it saw.

        Args:
            objective: What is maximised.
            n_units: Number of units asked for.
            rng: Source of randomness, for policies that need one.
        """

    def check(self, objective: Objective[Any]) -> None:
        """Refuse an objective that lacks a fact.

        Raises:
            InvalidSetting: If it does.
        """
        missing = self.needs - objective.facts
        if missing:
            reasons = "; ".join(f"{fact.name.lower()} ({fact.value})" for fact in missing)
            raise InvalidSetting(
                f"policy {type(self).__name__} relies on facts that {type(objective).__name__} does not have: "
                f"{reasons}. Take Exact or Stochastic"
            )


@dataclass(frozen=True)
class Exact(Policy):
    """Every candidate is looked at in every step."""

    def picker(self, objective: Objective[Any], n_units: int, rng: np.random.Generator | None) -> Picker:
        """Looks at all candidates."""
        return lambda state, candidates: best(candidates, objective.gains(state, candidates))


EXACT = Exact()


@dataclass(frozen=True)
class Stochastic(Policy):
    """A fresh random sample of the candidates is looked at in each step.

    Source: Mirzasoleiman et al., *Lazier Than Lazy Greedy*, AAAI 2015: for a monotone submodular objective the
    expected value is at least ``1 - 1/e - epsilon`` of the best one, with ``N ln(1/epsilon)`` evaluations in total.

    Attributes:
        epsilon: Sets the sample to ``ceil((N / n_units) ln(1 / epsilon))`` candidates; inside (0, 1).
        sample_size: A fixed number of candidates instead (the released code of GFS, ICML 2020, takes 50).
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
        """Looks at some of the candidates, drawn without replacement.

        Raises:
            InvalidSetting: If there is no random generator.
        """
        if rng is None:
            raise InvalidSetting("random candidates need a generator; give rng=np.random.default_rng(seed)")

        def pick(state: Any, candidates: IntArray) -> int:
            # the size implied by epsilon counts the units that may be chosen at all: fewer on one of several machines
            wanted = self.sample_size or math.ceil(objective.size / n_units * math.log(1 / self.epsilon))
            if wanted < len(candidates):
                candidates = np.sort(rng.choice(candidates, wanted, replace=False))
            return best(candidates, objective.gains(state, candidates))

        return pick


@dataclass(frozen=True)
class Lazy(Policy):
    """A candidate is looked at again only while its last known gain could still be the best: the picks of `Exact`.

    A gain seen before is an upper bound of the present one only if the objective is submodular; others are refused.

    Source: Minoux, *Accelerated greedy algorithms for maximizing submodular set functions*, 1978.
    """

    needs = frozenset({Fact.SUBMODULAR})

    def picker(self, objective: Objective[Any], n_units: int, rng: np.random.Generator | None) -> Picker:
        """Remembers the last gain of each unit."""
        bounds = np.full(objective.size, np.inf)

        def look(state: Any, units: IntArray) -> None:
            bounds[units] = _numbers(units, objective.gains(state, units))

        def pick(state: Any, candidates: IntArray) -> int:
            fresh = np.zeros(len(candidates), dtype=bool)
            if np.isinf(bounds[candidates]).all():
                look(state, candidates)
                fresh[:] = True
            while True:
                known = bounds[candidates]
                top = known[fresh].max(initial=-math.inf)
                stale = np.where(fresh, -math.inf, known)
                next_up = int(stale.argmax())
                if stale[next_up] < _tied(top):
                    return int(candidates[np.argmax(fresh & (known >= _tied(top)))])
                look(state, candidates[next_up : next_up + 1])
                fresh[next_up] = True

        return pick


def best(candidates: IntArray, gains: FloatArray) -> int:
    """The candidate of the largest gain, the lowest index among ties. Candidates ascend."""
    return int(candidates[np.argmax(gains >= _tied(_numbers(candidates, gains).max()))])


def _tied(gain: float) -> float:
    """The least gain that is not told apart from the best one."""
    return gain - TIE * abs(gain) if math.isfinite(gain) else gain


def _numbers(candidates: IntArray, gains: FloatArray) -> FloatArray:
    """The gains.

    Raises:
        CalibrationError: If one of them is NaN or infinite.
    """
    if not gains.max() < math.inf:
        bad = candidates[~(gains < math.inf)]
        raise CalibrationError(
            f"the gain of {len(bad)} of {len(candidates)} units, first of unit {bad[0]}, is NaN or infinite; gains "
            f"must be numbers: check the calibration data and the network for NaN and infinite values"
        )
    return gains
