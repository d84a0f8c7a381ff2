"""Objectives that imitate linear maps, computed from second moments: average, line search, least squares.

A unit contributes ``A_i = W[:, columns_i] x[columns_i]`` to a consumer's output. With weights a_i, the consumer's
output is ``sum_i a_i A_i + W[:, fixed] x[fixed]``, and its target is y. The value of all three objectives is minus the
mean squared error relative to the mean square of y, summed over consumers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scionet.selection.objective import Fact, Objective
from scionet.selection.regression import Fit, refit
from scionet.selection.terms import Contributions, Term, common_size
from scionet.typing import BoolArray, FloatArray, IntArray

__all__ = [
    "AverageObjective",
    "Contributions",
    "LeastSquaresObjective",
    "LeastSquaresState",
    "LineSearchObjective",
    "Term",
    "refit",
]

REFRESH = 256
"""Line-search steps after which the state is recomputed to remove rounding drift."""
ZERO_WEIGHT = 1e-14
"""Line-search weights below this are set to 0."""


@dataclass(frozen=True, eq=False)
class _Average:
    """Multiplicities; n; ``<n (u - y), phi_i - y>`` for all i; ``||n (u - y)||^2``, with ``u`` the current output."""

    counts: FloatArray
    n_picks: int
    inner: FloatArray
    square: float


class AverageObjective(Objective[_Average]):
    """Imitation by the average of the picks: ``a_i = N c_i / n`` after n picks, c_i the multiplicity of unit i.

    A pick costs O(N). Picking all N units once reproduces the dense map exactly.

    Source: Ye et al., *Good Subnetworks Provably Exist*, ICML 2020. The target is the map's dense output instead of the
    labels, as in Ye et al., NeurIPS 2020.
    """

    def __init__(self, source: Sequence[Term] | Contributions) -> None:
        """Make the objective.

        Args:
            source: Terms of the units' consumers, or the inner products of the units' contributions.
        """
        given = source if isinstance(source, Contributions) else Contributions.from_terms(source)
        self.size, self.facts = len(given.cross), frozenset()
        cross = self.size * given.cross
        self._centred = self.size**2 * given.gram - cross[:, None] - cross + given.square
        self._diagonal = np.diag(self._centred).copy()
        self._square = given.square

    def start(self) -> _Average:
        """The state before the first pick."""
        return _Average(np.zeros(self.size), 0, np.zeros(self.size), 0.0)

    def gains(self, state: _Average, candidates: IntArray) -> FloatArray:
        """Decrease of the relative error."""
        squares = state.square + 2 * state.inner[candidates] + self._diagonal[candidates]
        return -squares / (state.n_picks + 1) ** 2 - self.value(state)

    def commit(self, state: _Average, unit: int) -> _Average:
        """One more pick."""
        counts = state.counts.copy()
        counts[unit] += 1
        square = state.square + 2 * state.inner[unit] + self._diagonal[unit]
        return _Average(counts, state.n_picks + 1, state.inner + self._centred[unit], float(square))

    def value(self, state: _Average) -> float:
        """Minus the relative error."""
        return -max(state.square, 0.0) / state.n_picks**2 if state.n_picks else -self._square

    def weights(self, state: _Average) -> FloatArray:
        """N c_i / n."""
        return self.size * state.counts / max(state.n_picks, 1)


@dataclass(frozen=True, eq=False)
class _Convex:
    """Simplex weights, their products with the Gram matrix, and the number of picks."""

    alpha: FloatArray
    with_gram: FloatArray
    n_picks: int


class LineSearchObjective(Objective[_Convex]):
    """Imitation by a convex combination, ``a_i = N alpha_i``: a pick moves to ``(1 - s) alpha + s e_i``.

    The step s is the best one in ``[-alpha_i / (1 - alpha_i), 1]``, in closed form. A negative step moves weight away
    from the unit; at the lower limit it removes the unit, and s = 1 removes all others. A pick costs O(N).

    Source: Ye et al., *Greedy Optimization Provably Wins the Lottery*, NeurIPS 2020 (greedy local imitation).
    """

    def __init__(self, source: Sequence[Term] | Contributions) -> None:
        """Make the objective.

        Args:
            source: Terms of the units' consumers, or the inner products of the units' contributions.
        """
        given = source if isinstance(source, Contributions) else Contributions.from_terms(source)
        self.size, self.facts = len(given.cross), frozenset()
        self._gram = self.size**2 * given.gram
        self._diagonal = np.diag(self._gram).copy()
        self._cross = self.size * given.cross
        self._square = given.square

    def start(self) -> _Convex:
        """The state before the first pick."""
        return _Convex(np.zeros(self.size), np.zeros(self.size), 0)

    def gains(self, state: _Convex, candidates: IntArray) -> FloatArray:
        """Decrease of the relative error with the best step."""
        return self._steps(state, candidates)[1]

    def commit(self, state: _Convex, unit: int) -> _Convex:
        """Take the best step towards `unit`."""
        step = self._steps(state, np.array([unit]))[0][0]
        alpha = (1 - step) * state.alpha
        alpha[unit] += step
        alpha[alpha < ZERO_WEIGHT] = 0
        if (state.n_picks + 1) % REFRESH == 0:
            alpha /= alpha.sum()
            return _Convex(alpha, self._gram @ alpha, state.n_picks + 1)
        with_gram = (1 - step) * state.with_gram + step * self._gram[unit]
        return _Convex(alpha, with_gram, state.n_picks + 1)

    def value(self, state: _Convex) -> float:
        """Minus the relative error."""
        return -max(float(self._square - state.alpha @ (2 * self._cross - state.with_gram)), 0.0)

    def weights(self, state: _Convex) -> FloatArray:
        """N alpha_i."""
        return self.size * state.alpha

    def _steps(self, state: _Convex, units: IntArray) -> tuple[FloatArray, FloatArray]:
        """The best step towards each unit, and its gain."""
        if state.n_picks == 0:
            return np.ones(len(units)), 2 * self._cross[units] - self._diagonal[units]
        alpha, with_gram = state.alpha[units], state.with_gram[units]
        norm, match = state.alpha @ state.with_gram, state.alpha @ self._cross
        slope = self._cross[units] - with_gram - (match - norm)
        curvature = self._diagonal[units] - 2 * with_gram + norm
        # if u = phi_i up to rounding, the direction is noise
        moves = (alpha < 1 - 1e-12) & (curvature > ZERO_WEIGHT * (self._diagonal[units] + norm))
        best = np.divide(slope, curvature, out=np.zeros_like(slope), where=moves)
        lowest = -np.divide(alpha, 1 - alpha, out=np.zeros_like(alpha), where=moves)
        step = np.clip(best, lowest, 1.0)
        return step, step * (2 * slope - step * curvature)


@dataclass(frozen=True, eq=False)
class LeastSquaresState:
    """The chosen units, and each term's regression on them."""

    chosen: BoolArray
    fits: tuple[Fit, ...]


class LeastSquaresObjective(Objective[LeastSquaresState]):
    """Imitation with the consumers' weights refitted to the kept units (block orthogonal matching pursuit).

    The error is ``min_B E||y - B x_S||^2 + ridge ||B||^2``, where S are the inputs of the kept units and the fixed
    inputs. A pick costs one block column of a Cholesky factor and yields the gains of all other units.

    Source: El Halabi, Srinivas, Lacoste-Julien, *Data-Efficient Structured Pruning via Submodular Optimization*,
    NeurIPS 2022 (the objective and its weak submodularity).
    """

    def __init__(self, terms: Sequence[Term], ridge: float = 1e-6) -> None:
        """Make the objective.

        Args:
            terms: Terms of the units' consumers.
            ridge: Ridge relative to the mean of the diagonal of `xx`, at least 0.

        Raises:
            InvalidSetting: If the terms differ in their number of units, or the ridge is negative.
        """
        self.size = common_size(terms)
        self.facts = frozenset({Fact.MONOTONE, Fact.WEAKLY_SUBMODULAR})
        self._terms, self._ridge = tuple(terms), ridge

    def start(self) -> LeastSquaresState:
        """The regression on the fixed inputs alone."""
        return LeastSquaresState(np.zeros(self.size, dtype=bool), tuple(Fit(t, self._ridge) for t in self._terms))

    def gains(self, state: LeastSquaresState, candidates: IntArray) -> FloatArray:
        """Decrease of the relative error."""
        return np.sum([fit.gains[candidates] for fit in state.fits], axis=0)

    def commit(self, state: LeastSquaresState, unit: int) -> LeastSquaresState:
        """Add `unit` to the regression; consumes the state."""
        chosen = state.chosen.copy()
        chosen[unit] = True
        for fit in state.fits:
            fit.take(unit)
        return LeastSquaresState(chosen, state.fits)

    def value(self, state: LeastSquaresState) -> float:
        """Minus the relative error."""
        return -sum(max(fit.error, 0.0) for fit in state.fits)

    def weights(self, state: LeastSquaresState) -> FloatArray:
        """1 for kept units."""
        return state.chosen.astype(np.float64)

    def spectral_ratio(self) -> float:
        """Lower bound on the submodularity ratio for sets of any size, from 0 (no guarantee) to 1 (uncorrelated units).

        It is the smallest eigenvalue of the inputs' second moments, after projecting out the fixed inputs and whitening
        each unit; the minimum over all terms. The cost is one eigenvalue problem of D inputs per term.

        Source: Das, Kempe, *Submodular meets Spectral*, ICML 2011, Lemma 2.4, for single columns; here for blocks.
        """
        return min(_least_eigenvalue(term, self._ridge) for term in self._terms)


def _least_eigenvalue(term: Term, ridge: float) -> float:
    """Smallest eigenvalue of the moments of a term's units, each whitened."""
    moments = term.xx + ridge * max(float(np.mean(np.diag(term.xx))), 0.0) * np.eye(len(term.xx))
    flat, width = term.columns.ravel(), term.columns.shape[1]
    rest = moments[np.ix_(flat, flat)]
    if term.fixed.size:
        across = moments[np.ix_(term.fixed, flat)]
        rest = rest - across.T @ np.linalg.pinv(moments[np.ix_(term.fixed, term.fixed)], hermitian=True) @ across
    blocks = rest.reshape(term.size, width, term.size, width)[np.arange(term.size), :, np.arange(term.size)]
    values, vectors = np.linalg.eigh(blocks)
    if values.min() <= 0:
        return 0.0
    whitening = (vectors / np.sqrt(values)[:, None]) @ vectors.swapaxes(1, 2)
    half = np.einsum("iab,ibd->iad", whitening, rest.reshape(term.size, width, -1)).reshape(len(flat), -1)
    white = np.einsum("dib,ibc->dic", half.reshape(-1, term.size, width), whitening).reshape(len(flat), -1)
    return float(np.clip(np.linalg.eigvalsh((white + white.T) / 2)[0], 0.0, 1.0))
