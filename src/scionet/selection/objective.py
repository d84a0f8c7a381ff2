"""The contract between an objective and the engine that maximises it."""

from abc import ABC, abstractmethod
from enum import Enum
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

State = TypeVar("State")


class Fact(Enum):
    """What is known about an objective as a function of the *set* of kept units; engines rely on nothing else.

    An objective with any fact is a set function: its value depends on which units are kept and on nothing else, and
    every kept unit has weight 1.
    """

    MONOTONE = "adding a unit never lowers the value"
    SUBMODULAR = "the gain of a unit never grows when other units are added: a stale gain is an upper bound"
    WEAKLY_SUBMODULAR = (
        "the gains of the units of a set, taken one by one, add up to at least a positive constant times the gain of "
        "the set: greedy keeps a multiplicative guarantee, but stale gains are no upper bounds"
    )


class Objective(ABC, Generic[State]):
    """What a subnetwork of some of `size` units is worth. Higher is better.

    An imitation objective is worth minus its squared error relative to the target's mean square: 0 is perfect, and
    -1 for each target is what giving nothing at all is worth.

    Attributes:
        size: Number of units N.
        facts: What engines may rely on.
    """

    size: int
    facts: frozenset[Fact]

    @abstractmethod
    def start(self) -> State:
        """The state in which no unit has been picked."""

    @abstractmethod
    def gains(self, state: State, candidates: IntArray) -> FloatArray:
        """Increase of the value by picking each candidate once more, one number for each candidate.

        Of a candidate that does not have the largest increase, an upper bound may be given that is less than the
        largest one by more than a tie: what is not the best need not be known exactly.

        Args:
            state: The present subnetwork; is not changed.
            candidates: Distinct units, shape ``(n,)``. Units picked before are allowed.
        """

    @abstractmethod
    def commit(self, state: State, unit: int) -> State:
        """The state after picking `unit` once more. The state given may be consumed: do not use it again."""

    @abstractmethod
    def value(self, state: State) -> float:
        """The worth of the present subnetwork."""

    @abstractmethod
    def weights(self, state: State) -> FloatArray:
        """Multiplier of each unit at its consumers, shape ``(size,)``; 0 for a unit that is not kept."""
