"""Plain set functions: to choose examples with, and to test engines on."""

from dataclasses import dataclass

import numpy as np

from scionet.errors import InvalidSetting
from scionet.selection.objective import BoolArray, Fact, FloatArray, IntArray, Objective
from scionet.selection.quadratic import LeastSquares, LeastSquaresState, Term


class Modular(Objective[BoolArray]):
    """The sum of the weights of the chosen units."""

    def __init__(self, weights: FloatArray) -> None:
        """Make the function.

        Args:
            weights: Worth of each unit, shape ``(N,)``. The function is monotone if none is negative.

        Raises:
            InvalidSetting: If the weights are not one finite number per unit.
        """
        self._weights = numbers("weights", weights, 1)
        self.size = len(self._weights)
        monotone = {Fact.MONOTONE} if np.all(self._weights >= 0) else set()
        self.facts = frozenset({Fact.SUBMODULAR, Fact.WEAKLY_SUBMODULAR} | monotone)

    def start(self) -> BoolArray:
        """The empty set."""
        return np.zeros(self.size, dtype=bool)

    def gains(self, state: BoolArray, candidates: IntArray) -> FloatArray:
        """Their weights; 0 for those chosen before."""
        return np.where(state[candidates], 0.0, self._weights[candidates])

    def commit(self, state: BoolArray, unit: int) -> BoolArray:
        """The set with `unit`."""
        return _with(state, unit)

    def value(self, state: BoolArray) -> float:
        """The sum of the weights."""
        return float(self._weights[state].sum())

    def weights(self, state: BoolArray) -> FloatArray:
        """The indicator of the set."""
        return state.astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Level:
    """The set, and how well each item is served by it, shape ``(items,)``."""

    chosen: BoolArray
    level: FloatArray


class FacilityLocation(Objective[_Level]):
    """How well each item is served by the chosen unit that serves it best: ``sum_j max(0, max_{i in S} s_ij)``."""

    def __init__(self, similarity: FloatArray) -> None:
        """Make the function.

        Args:
            similarity: How well each unit serves each item, shape ``(N, items)``; not necessarily square. Negative
                entries are allowed and serve no item.

        Raises:
            InvalidSetting: If it is not a matrix of finite numbers.
        """
        self._similarity = numbers("similarity", similarity, 2)
        self.size = len(self._similarity)
        self.facts = frozenset(Fact)

    def start(self) -> _Level:
        """The empty set, which serves nothing."""
        return _Level(np.zeros(self.size, dtype=bool), np.zeros(self._similarity.shape[1]))

    def gains(self, state: _Level, candidates: IntArray) -> FloatArray:
        """How much better each candidate would serve, summed over items."""
        return np.maximum(self._similarity[candidates] - state.level, 0.0).sum(axis=1)

    def commit(self, state: _Level, unit: int) -> _Level:
        """The set with `unit`."""
        return _Level(_with(state.chosen, unit), np.maximum(state.level, self._similarity[unit]))

    def value(self, state: _Level) -> float:
        """The sum over items."""
        return float(state.level.sum())

    def weights(self, state: _Level) -> FloatArray:
        """The indicator of the set."""
        return state.chosen.astype(np.float64)


class Coverage(FacilityLocation):
    """The total weight of the items that at least one chosen unit covers."""

    def __init__(self, incidence: BoolArray, item_weights: FloatArray | None = None) -> None:
        """Make the function.

        Args:
            incidence: Which unit covers which item, shape ``(N, items)``.
            item_weights: Worth of each item, not negative, shape ``(items,)``; 1 if not given.

        Raises:
            InvalidSetting: If shapes or values are none of these.
        """
        covers = np.asarray(incidence)
        if covers.dtype != np.bool_ or covers.ndim != 2:
            raise InvalidSetting(f"incidence must be boolean (units, items); given {covers.dtype} {covers.shape}")
        worth = np.ones(covers.shape[1]) if item_weights is None else numbers("item_weights", item_weights, 1)
        if worth.shape != covers.shape[1:] or np.any(worth < 0):
            raise InvalidSetting(f"item_weights must be {covers.shape[1]} numbers of at least 0; given {worth}")
        super().__init__(covers * worth)


class RSquared(Objective[LeastSquaresState]):
    """The share of the variance of y that a linear regression with intercept on the chosen columns explains."""

    def __init__(self, x: FloatArray, y: FloatArray) -> None:
        """Make the function.

        Args:
            x: Regressors, shape ``(samples, N)``.
            y: Response, shape ``(samples,)``.

        Raises:
            InvalidSetting: If the shapes do not fit or y is constant.
        """
        x, y = numbers("x", x, 2), numbers("y", y, 1)
        if len(x) != len(y) or not np.ptp(y):
            raise InvalidSetting(f"y must have one value per row of x and not be constant; given {x.shape}, {y.shape}")
        x, y = x - x.mean(axis=0), (y - y.mean())[:, None]
        self.size = x.shape[1]
        self.facts = frozenset({Fact.MONOTONE, Fact.WEAKLY_SUBMODULAR})
        units = np.arange(self.size)[:, None]
        nothing = np.zeros(0, dtype=np.int64)
        term = Term(x.T @ x, x.T @ y, float((y * y).sum()), units, nothing, np.zeros((1, self.size)))
        self._fit = LeastSquares([term], ridge=0.0)

    def start(self) -> LeastSquaresState:
        """The regression on the intercept alone."""
        return self._fit.start()

    def gains(self, state: LeastSquaresState, candidates: IntArray) -> FloatArray:
        """Further share of the variance that each candidate explains."""
        return self._fit.gains(state, candidates)

    def commit(self, state: LeastSquaresState, unit: int) -> LeastSquaresState:
        """The regression with `unit`."""
        return self._fit.commit(state, unit)

    def value(self, state: LeastSquaresState) -> float:
        """R², from 0 to 1."""
        return 1.0 + self._fit.value(state)

    def weights(self, state: LeastSquaresState) -> FloatArray:
        """The indicator of the set."""
        return self._fit.weights(state)

    def spectral_ratio(self) -> float:
        """A lower bound of the submodularity ratio; see `LeastSquares.spectral_ratio`."""
        return self._fit.spectral_ratio()


def _with(chosen: BoolArray, unit: int) -> BoolArray:
    larger = chosen.copy()
    larger[unit] = True
    return larger


def numbers(name: str, array: FloatArray, ndim: int) -> FloatArray:
    """An array of finite numbers of so many dimensions.

    Raises:
        InvalidSetting: If it is none.
    """
    numbers = np.asarray(array, dtype=np.float64)
    if numbers.ndim != ndim or not np.all(np.isfinite(numbers)):
        raise InvalidSetting(f"{name} must be finite numbers in {ndim} dimension(s); given shape {numbers.shape}")
    return numbers
