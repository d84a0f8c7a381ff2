"""Set functions for selecting examples and features, and for testing engines."""

from dataclasses import dataclass

import numpy as np

from scionet.errors import InvalidSetting
from scionet.selection.objective import Fact, Objective
from scionet.selection.quadratic import LeastSquaresObjective, LeastSquaresState, Term
from scionet.typing import BoolArray, FloatArray, IntArray


class Modular(Objective[BoolArray]):
    """The sum of the weights of the chosen units."""

    def __init__(self, weights: FloatArray) -> None:
        """Make the function.

        Args:
            weights: Weight of each unit, shape ``(N,)``. The function is monotone if none is negative.

        Raises:
            InvalidSetting: If the weights are not one finite number per unit.
        """
        self._weights = finite_array("weights", weights, 1)
        self.size = len(self._weights)
        monotone = {Fact.MONOTONE} if np.all(self._weights >= 0) else set()
        self.facts = frozenset({Fact.SUBMODULAR, Fact.WEAKLY_SUBMODULAR} | monotone)

    def start(self) -> BoolArray:
        """The empty set."""
        return np.zeros(self.size, dtype=bool)

    def gains(self, state: BoolArray, candidates: IntArray) -> FloatArray:
        """The candidates' weights; 0 for units already in the set."""
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
    """The set, and each item's similarity to the closest chosen unit, shape ``(items,)``."""

    chosen: BoolArray
    level: FloatArray


class FacilityLocation(Objective[_Level]):
    """Sum over items of the similarity to the closest chosen unit: ``sum_j max(0, max_{i in S} s_ij)``."""

    def __init__(self, similarity: FloatArray) -> None:
        """Make the function.

        Args:
            similarity: Similarity of each unit to each item, shape ``(N, items)``; need not be square. Negative entries
                are allowed and count as 0.

        Raises:
            InvalidSetting: If it is not a matrix of finite numbers.
        """
        self._similarity = finite_array("similarity", similarity, 2)
        self.size = len(self._similarity)
        self.facts = frozenset(Fact)

    def start(self) -> _Level:
        """The empty set."""
        return _Level(np.zeros(self.size, dtype=bool), np.zeros(self._similarity.shape[1]))

    def gains(self, state: _Level, candidates: IntArray) -> FloatArray:
        """Increase of the similarity by each candidate, summed over items."""
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
            item_weights: Nonnegative weight of each item, shape ``(items,)``; 1 by default.

        Raises:
            InvalidSetting: If a shape or value is not allowed.
        """
        covers = np.asarray(incidence)
        if covers.dtype != np.bool_ or covers.ndim != 2:
            raise InvalidSetting(f"incidence must be boolean (units, items); given {covers.dtype} {covers.shape}")
        weights = np.ones(covers.shape[1]) if item_weights is None else finite_array("item_weights", item_weights, 1)
        if weights.shape != covers.shape[1:] or np.any(weights < 0):
            raise InvalidSetting(f"item_weights must be {covers.shape[1]} nonnegative numbers; given {weights}")
        super().__init__(covers * weights)


class RSquared(Objective[LeastSquaresState]):
    """Share of the variance of y explained by a linear regression with intercept on the chosen columns."""

    def __init__(self, x: FloatArray, y: FloatArray) -> None:
        """Make the function.

        Args:
            x: Regressors, shape ``(samples, N)``.
            y: Response, shape ``(samples,)``.

        Raises:
            InvalidSetting: If the shapes do not match or y is constant.
        """
        x, y = finite_array("x", x, 2), finite_array("y", y, 1)
        if len(x) != len(y) or not np.ptp(y):
            raise InvalidSetting(f"y must have one value per row of x and not be constant; given {x.shape}, {y.shape}")
        x, y = x - x.mean(axis=0), (y - y.mean())[:, None]
        self.size = x.shape[1]
        self.facts = frozenset({Fact.MONOTONE, Fact.WEAKLY_SUBMODULAR})
        units = np.arange(self.size)[:, None]
        no_fixed = np.zeros(0, dtype=np.int64)
        term = Term(x.T @ x, x.T @ y, float((y * y).sum()), units, no_fixed, np.zeros((1, self.size)))
        self._fit = LeastSquaresObjective([term], ridge=0.0)

    def start(self) -> LeastSquaresState:
        """The regression on the intercept alone."""
        return self._fit.start()

    def gains(self, state: LeastSquaresState, candidates: IntArray) -> FloatArray:
        """Increase of the explained share of the variance by each candidate."""
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
        """Lower bound on the submodularity ratio; see `LeastSquares.spectral_ratio`."""
        return self._fit.spectral_ratio()


def _with(chosen: BoolArray, unit: int) -> BoolArray:
    larger = chosen.copy()
    larger[unit] = True
    return larger


def finite_array(name: str, array: FloatArray, ndim: int) -> FloatArray:
    """Convert to a float64 array with `ndim` dimensions.

    Raises:
        InvalidSetting: If the number of dimensions is different, or an entry is NaN or infinite.
    """
    converted = np.asarray(array, dtype=np.float64)
    if converted.ndim != ndim or not np.all(np.isfinite(converted)):
        raise InvalidSetting(
            f"{name} must be an array of finite numbers with {ndim} dimension(s); given shape {converted.shape}"
        )
    return converted
