"""Interface between an objective and the engines that maximise it."""

from abc import ABC, abstractmethod
from enum import Enum
from typing import Generic, TypeVar

from scionet.typing import FloatArray, IntArray

State = TypeVar("State")


class Fact(Enum):
    """A property of an objective as a function of the *set* of kept units. Engines rely on nothing else.

    An objective with any fact is a set function: its value depends only on which units are kept, and every kept unit
    has weight 1.
    """

    MONOTONE = "adding a unit never lowers the value"
    SUBMODULAR = "the gain of a unit never grows when other units are added, so an old gain is an upper bound"
    WEAKLY_SUBMODULAR = (
        "the gains of the single units of a set add up to at least a positive constant times the gain of the set: "
        "greedy selection has a multiplicative guarantee, but old gains are not upper bounds"
    )


class Objective(ABC, Generic[State]):
    """The value of a subset of `size` units. Higher is better.

    The value of an imitation objective is minus its squared error, relative to the mean square of the target. A perfect
    imitation has value 0, and an output of zero has value -1 per target.

    Attributes:
        size: Number of units N.
        facts: Properties that engines may rely on.
    """

    size: int
    facts: frozenset[Fact]

    @abstractmethod
    def start(self) -> State:
        """The state before the first pick."""

    @abstractmethod
    def gains(self, state: State, candidates: IntArray) -> FloatArray:
        """Increase of the value by picking each candidate once more, shape ``(n,)``.

        Only the largest gain must be exact. Other gains may be upper bounds, as long as they are below the largest one
        by more than a tie.

        Args:
            state: The current state; not modified.
            candidates: Distinct units, shape ``(n,)``. They may have been picked before.
        """

    @abstractmethod
    def commit(self, state: State, unit: int) -> State:
        """The state after picking `unit` once more. May consume `state`: do not use that again."""

    @abstractmethod
    def value(self, state: State) -> float:
        """The value of the current state."""

    @abstractmethod
    def weights(self, state: State) -> FloatArray:
        """Multiplier of each unit at its consumers, shape ``(size,)``; 0 for a unit that is not kept."""
