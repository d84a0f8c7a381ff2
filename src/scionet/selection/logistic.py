"""Likelihood of a logistic regression on the chosen columns, as a set function."""

from dataclasses import dataclass

import numpy as np

from scionet.errors import InvalidSetting
from scionet.selection.objective import Fact, Objective
from scionet.selection.setfunctions import finite_array
from scionet.typing import BoolArray, FloatArray, IntArray

_STEPS = 50
_CHUNK = 2**24
"""Maximum number of entries in the design matrices of candidates that are fitted together."""


@dataclass(frozen=True, eq=False)
class LogisticState:
    """The chosen columns in order, their coefficients, shape ``(columns + 1, classes - 1)``, and the value."""

    chosen: tuple[int, ...]
    coefficients: FloatArray
    value: float


class LogisticLikelihood(Objective[LogisticState]):
    """Share of the deviance explained by a multinomial logistic regression with intercept on the chosen columns.

    ``f(S) = max_b (l(b) - l(intercept alone)) / -l(intercept alone)``, where l is the mean log-likelihood minus
    ``(ridge / 2) ||b||^2``. The penalty applies to the slopes on standardised columns and keeps them finite if classes
    are separable. Candidates are fitted in parallel by Newton's method, starting from the current regression.

    Source: Elenberg, Khanna, Dimakis, Negahban, *Restricted Strong Convexity Implies Weak Submodularity*, 2018.
    """

    def __init__(self, x: FloatArray, y: IntArray, ridge: float = 1e-3) -> None:
        """Make the function.

        Args:
            x: Regressors, shape ``(samples, N)``.
            y: Class of each sample, shape ``(samples,)``; at least two classes.
            ridge: Strength of the penalty, above 0.

        Raises:
            InvalidSetting: If the shapes do not match, there is only one class, or the ridge is not positive.
        """
        x, names = finite_array("x", x, 2), np.unique(np.asarray(y))
        if np.shape(y) != x.shape[:1] or len(names) < 2:
            raise InvalidSetting(
                f"y must hold one class per row of x and at least two classes; given {len(names)} classes, shapes "
                f"{x.shape}, {np.shape(y)}"
            )
        if not ridge > 0:
            raise InvalidSetting(f"ridge must be above 0, 1e-3 is usual; given {ridge}")
        spread = x.std(axis=0)
        self._x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        self._targets = (np.asarray(y)[:, None] == names[1:]).astype(np.float64)
        self._ridge = ridge
        self.size = x.shape[1]
        self.facts = frozenset({Fact.MONOTONE, Fact.WEAKLY_SUBMODULAR})
        shares = np.bincount(np.searchsorted(names, y)) / len(x)
        self._null = float(-(shares * np.log(shares)).sum())
        self._intercept = np.log(shares[1:] / shares[0])[None]

    def start(self) -> LogisticState:
        """The regression on the intercept alone."""
        return LogisticState((), self._intercept, 0.0)

    def gains(self, state: LogisticState, candidates: IntArray) -> FloatArray:
        """Increase of the explained share of the deviance by each candidate."""
        fresh = np.array([unit not in state.chosen for unit in candidates], dtype=bool)
        gains = np.zeros(len(candidates))
        chunk = max(1, _CHUNK // (len(self._x) * (len(state.chosen) + 2)))
        news = candidates[fresh]
        parts = [self._fitted(state, news[i : i + chunk])[1] for i in range(0, len(news), chunk)]
        gains[fresh] = np.maximum(np.concatenate([np.zeros(0), *parts]) - state.value, 0.0)
        return gains

    def commit(self, state: LogisticState, unit: int) -> LogisticState:
        """The regression with `unit`."""
        if unit in state.chosen:
            return state
        coefficients, values = self._fitted(state, np.array([unit]))
        return LogisticState((*state.chosen, unit), coefficients[0], float(values[0]))

    def value(self, state: LogisticState) -> float:
        """Explained share of the null deviance, from 0 to 1."""
        return state.value

    def weights(self, state: LogisticState) -> FloatArray:
        """The indicator of the set."""
        indicator: BoolArray = np.isin(np.arange(self.size), state.chosen)
        return indicator.astype(np.float64)

    def _fitted(self, state: LogisticState, units: IntArray) -> tuple[FloatArray, FloatArray]:
        """Fit one regression per unit: coefficients ``(units, columns, classes - 1)`` and values ``(units,)``."""
        shared = np.column_stack([np.ones(len(self._x)), self._x[:, list(state.chosen)]])
        own = self._x[:, units].T[:, :, None]
        designs = np.concatenate([np.broadcast_to(shared, (len(units), *shared.shape)), own], axis=2)
        start = np.vstack([state.coefficients, np.zeros((1, state.coefficients.shape[1]))])
        found = np.broadcast_to(start, (len(units), *start.shape)).copy()
        level = self._likelihood(designs, found)
        for _ in range(_STEPS):
            step, decrement = self._newton_step(designs, found)
            scale = np.ones(len(units))
            while True:
                trial = found + scale[:, None, None] * step
                reached = self._likelihood(designs, trial)
                worse = (reached < level - 1e-13) & (scale > 1e-6)
                if not worse.any():
                    break
                scale[worse] /= 2
            found, level = trial, reached
            if decrement.max() < 1e-12:
                break
        return found, 1.0 + level / self._null

    def _newton_step(self, designs: FloatArray, at: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Newton step and half the squared Newton decrement, for each unit."""
        units, rows, width = designs.shape
        classes = at.shape[2]
        probabilities = self._probabilities(designs, at)
        penalty = np.full(width, self._ridge)
        penalty[0] = 0.0
        slope = designs.swapaxes(1, 2) @ (self._targets - probabilities) / rows - penalty[:, None] * at
        curvature = np.empty((units, width, classes, width, classes))
        for a in range(classes):
            for b in range(classes):
                weights = probabilities[:, :, a] * ((a == b) - probabilities[:, :, b]) / rows
                curvature[:, :, a, :, b] = designs.swapaxes(1, 2) @ (weights[:, :, None] * designs)
        curvature = curvature.reshape(units, width * classes, width * classes)
        curvature[:, np.arange(width * classes), np.arange(width * classes)] += np.repeat(penalty, classes) + 1e-12
        step = np.linalg.solve(curvature, slope.reshape(units, -1, 1))
        decrement = (step * slope.reshape(units, -1, 1)).sum(axis=(1, 2)) / 2
        return step.reshape(slope.shape), decrement

    def _probabilities(self, designs: FloatArray, at: FloatArray) -> FloatArray:
        """Probability of each class except the first, shape ``(units, samples, classes - 1)``."""
        scores = designs @ at
        top = np.maximum(scores.max(axis=2, keepdims=True), 0.0)
        raised = np.exp(scores - top)
        return raised / (raised.sum(axis=2, keepdims=True) + np.exp(-top))

    def _likelihood(self, designs: FloatArray, at: FloatArray) -> FloatArray:
        """Penalised mean log-likelihood, shape ``(units,)``."""
        scores = designs @ at
        top = np.maximum(scores.max(axis=2), 0.0)
        total = top + np.log(np.exp(scores - top[:, :, None]).sum(axis=2) + np.exp(-top))
        fit = (scores * self._targets).sum(axis=2) - total
        return fit.mean(axis=1) - self._ridge / 2 * (at[:, 1:] ** 2).sum(axis=(1, 2))
