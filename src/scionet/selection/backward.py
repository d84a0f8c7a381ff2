"""Backward elimination: start from all units, and remove the one without which the refitted consumers lose least."""

from collections.abc import Sequence

import numpy as np

from scionet.errors import CalibrationError, InvalidSetting
from scionet.selection.greedy import Selection, Status
from scionet.selection.regression import ridge_of
from scionet.selection.terms import Term, common_size
from scionet.typing import FloatArray, IntArray

REFRESH = 64
"""Removals after which the inverse is computed again, to remove rounding drift."""


def backward_elimination(terms: Sequence[Term], n_units: int, ridge: float = 1e-6) -> Selection:
    """Remove units one at a time until `n_units` are left; each time the one that raises the error least.

    The error is that of `LeastSquaresObjective`: weights of the consumers are refitted to the units that are left. One
    removal costs O(D²) per input of a unit. Ties remove the lowest index.

    The order lists the kept units so that the unit that would be removed next stands last. Values are those of its
    prefixes, as for forward selection.

    Args:
        terms: Terms of the units' consumers, with D inputs each.
        n_units: Number of units to keep.
        ridge: Ridge relative to the mean of the diagonal of `xx`, at least 0.

    Raises:
        InvalidSetting: If the number is not from 0 to N, the terms differ in N, or the ridge is negative.
        CalibrationError: If inputs are linearly dependent and there is no ridge.
    """
    size = common_size(terms)
    if not 0 <= n_units <= size:
        raise InvalidSetting(f"n_units must be from 0 to {size}, the number of units; given {n_units}")
    fits = [_Shrinking(term, ridge) for term in terms]
    left, removed, values = np.ones(size, dtype=bool), [], []
    for _ in range(size):
        values.append(-sum(max(fit.error, 0.0) for fit in fits))
        increases = np.sum([fit.increases for fit in fits], axis=0)
        unit = int(np.argmin(np.where(left, increases, np.inf)))
        left[unit] = False
        removed.append(unit)
        for fit in fits:
            fit.remove(unit)
    order, values = removed[::-1][:n_units], values[::-1][:n_units]
    return Selection(tuple(sorted(order)), tuple(order), tuple(values), (1.0,) * n_units, Status.REACHED)


class _Shrinking:
    """Ridge regression of one term's target on a shrinking set of inputs.

    Attributes:
        error: Relative error of the inputs that are left.
        increases: How much each unit's removal would raise it, ``(N,)``; of removed units 0.
    """

    def __init__(self, term: Term, ridge: float) -> None:
        self._term, self._ridge = term, ridge_of(term.xx, ridge)
        self._left = np.zeros(len(term.xx), dtype=bool)
        self._left[np.concatenate([term.columns.ravel(), term.fixed])] = True
        self._removals = 0
        self._refresh()

    def remove(self, unit: int) -> None:
        """Remove a unit's inputs."""
        own = self._term.columns[unit]
        self.error += float(self.increases[unit])
        self._left[own] = False
        self._removals += 1
        if self._removals % REFRESH == 0:
            self._refresh()
            return
        across = np.linalg.solve(self._inverse[np.ix_(own, own)], self._inverse[own])
        self._weights -= across.T @ self._weights[own]
        self._inverse -= self._inverse[:, own] @ across
        self._clear(own)
        self.increases = self._increases()

    def _refresh(self) -> None:
        """Compute inverse, weights and error of the inputs that are left.

        Raises:
            CalibrationError: If the inputs are linearly dependent.
        """
        from scipy.linalg import cho_factor, cho_solve  # slow to import

        term, used = self._term, np.flatnonzero(self._left)
        self._inverse, self._weights = np.zeros_like(term.xx), np.zeros_like(term.xy)
        if len(used):
            moments = term.xx[np.ix_(used, used)] + self._ridge * np.eye(len(used))
            try:
                inverse = cho_solve(cho_factor(moments, lower=True), np.eye(len(used)))
            except np.linalg.LinAlgError as error:
                raise CalibrationError(
                    "backward elimination needs linearly independent inputs; give a ridge above 0, such as 1e-6"
                ) from error
            self._inverse[np.ix_(used, used)] = inverse
            self._weights[used] = inverse @ term.xy[used]
        self.error = float(term.yy - np.sum(term.xy * self._weights)) / term.scale
        self.increases = self._increases()

    def _clear(self, own: IntArray) -> None:
        """Remove the rounding errors in rows and columns that are exactly 0."""
        self._weights[own], self._inverse[own], self._inverse[:, own] = 0, 0, 0

    def _increases(self) -> FloatArray:
        """``tr(B_iᵀ K_ii⁻¹ B_i)`` for all units i, with the inverse K of the moments and the weights B."""
        columns = self._term.columns
        blocks, weights = self._inverse[columns[:, :, None], columns[:, None, :]], self._weights[columns]
        gone = ~self._left[columns].all(axis=1)
        blocks[gone] = np.eye(columns.shape[1])
        return np.einsum("nbo,nbo->n", weights, np.linalg.solve(blocks, weights)) / self._term.scale
