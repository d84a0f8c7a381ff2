"""Ridge regression from second moments, robust to linearly dependent inputs."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from scionet.errors import InvalidSetting
from scionet.selection.terms import Term
from scionet.typing import FloatArray, IntArray

SPANNED = 1e-10
"""An input counts as spanned by earlier inputs if its residual is below this fraction of its mean square."""


class Fit:
    """Ridge regression of one term's target on a growing set of units, by left-looking block Cholesky factorisation.

    The diagonal blocks of the second moments and the cross moments are deflated by the current basis. The off-diagonal
    blocks of a unit are computed only when the unit is added.
    """

    def __init__(self, term: Term, ridge: float) -> None:
        """Fit the fixed inputs; `ridge` is relative to the mean of the diagonal of `xx`."""
        size, width = term.columns.shape
        self._term, self._flat = term, term.columns.ravel()
        self._ridge = ridge_of(term.xx, ridge)
        self._panel = np.empty((len(term.fixed) + size * width, size * width))
        self._rank = 0
        self._rest = term.xy[self._flat]
        self._blocks = np.moveaxis(term.xx[term.columns[:, :, None], term.columns[:, None, :]], 0, -1).copy()
        own = np.arange(width)
        self._blocks[own, own] += self._ridge
        self._floor = SPANNED * self._blocks[own, own]
        self.error = term.yy / term.scale
        if term.fixed.size:
            moments = term.xx[np.ix_(term.fixed, term.fixed)] + self._ridge * np.eye(len(term.fixed))
            self._deflate(moments, np.diag(moments), term.xx[term.fixed][:, self._flat], term.xy[term.fixed])
        self.gains = self._explained()

    def take(self, unit: int) -> None:
        """Add a unit's inputs to the basis."""
        width = len(self._blocks)
        own = slice(unit * width, (unit + 1) * width)
        panel = self._panel[: self._rank]
        rows = self._term.xx[self._term.columns[unit]][:, self._flat] - panel[:, own].T @ panel
        rows[:, own] += self._ridge * np.eye(width)
        self._deflate(rows[:, own], self._floor[:, unit] / SPANNED, rows, self._rest[own])
        self.gains = self._explained()

    def _deflate(self, moments: FloatArray, scale: FloatArray, rows: FloatArray, cross: FloatArray) -> None:
        """Deflate all blocks and cross moments by inputs with these (deflated) moments."""
        pivots, factor = _factorise(moments, scale)
        rows, cross = _solve_lower(factor, rows[pivots]), _solve_lower(factor, cross[pivots])
        self._panel[self._rank : self._rank + len(rows)] = rows
        self._rank += len(rows)
        self._rest -= rows.T @ cross
        by_unit = np.ascontiguousarray(np.moveaxis(rows.reshape(len(rows), *self._term.columns.shape), 1, 2))
        self._blocks -= np.einsum("rbn,rcn->bcn", by_unit, by_unit)
        self.error -= float(np.sum(cross * cross)) / self._term.scale

    def _explained(self) -> FloatArray:
        """``tr(B_i^-1 R_i R_i^T)`` for all units i, with deflated block B_i and deflated cross moments R_i.

        Uses Gaussian elimination on all blocks at once. Inputs that the basis already spans are skipped.
        """
        width, _, size = self._blocks.shape
        rest = self._rest.reshape(size, width, -1)
        blocks, scatter = self._blocks.copy(), np.moveaxis(rest @ np.moveaxis(rest, 1, 2), 0, -1).copy()
        total = np.zeros(size)
        for p in range(width):
            pivot = blocks[p, p]
            inverse = np.divide(1.0, pivot, out=np.zeros(size), where=pivot > self._floor[p])
            total += scatter[p, p] * inverse
            ratio, below = blocks[p + 1 :, p] * inverse, scatter[p + 1 :, p].copy()
            blocks[p + 1 :, p + 1 :] -= ratio[:, None] * blocks[p, p + 1 :]
            half = ratio[:, None] * (below - 0.5 * ratio * scatter[p, p])
            scatter[p + 1 :, p + 1 :] -= half + half.swapaxes(0, 1)
        return total / self._term.scale


def refit(xx: FloatArray, xy: FloatArray, columns: IntArray, ridge: float = 1e-6) -> FloatArray:
    """Weights of the best linear map from a subset of inputs: ``B = argmin E||y - B x||^2 + ridge ||B||^2``.

    Inputs spanned by others get weight 0. That is possible without ridge, or if an input is always 0.

    Args:
        xx: Second moments of all inputs, shape ``(D, D)``, float64.
        xy: Cross moments with the target, shape ``(D, O)``, float64.
        columns: Inputs that may be used, shape ``(n,)``.
        ridge: Ridge relative to the mean of the diagonal of `xx`, at least 0.

    Returns:
        Weights, shape ``(O, D)``; 0 outside `columns`.

    Raises:
        InvalidSetting: If the ridge is negative.
    """
    weight = np.zeros((xy.shape[1], xy.shape[0]))
    if not len(columns):
        return weight
    moments = xx[np.ix_(columns, columns)]
    moments[np.diag_indices_from(moments)] += ridge_of(xx, ridge)
    pivots, factor = _factorise(moments, np.diag(moments))
    used = columns[pivots]
    if not len(used):
        return weight
    from scipy.linalg import cho_solve  # slow to import

    weight[:, used] = cho_solve((factor, True), xy[used]).T
    return weight


def ridge_of(xx: FloatArray, ridge: float) -> float:
    """The absolute ridge.

    Raises:
        InvalidSetting: If the ridge is negative.
    """
    if not ridge >= 0:
        raise InvalidSetting(f"ridge must be at least 0 (typically 1e-6); given {ridge}")
    return ridge * max(float(np.mean(np.diag(xx))), 0.0)


def _factorise(moments: FloatArray, scale: FloatArray) -> tuple[IntArray, FloatArray]:
    """Cholesky factor of the moments of the linearly independent inputs.

    Args:
        moments: Positive semidefinite up to rounding, shape ``(n, n)``.
        scale: Mean square of each input before deflation, shape ``(n,)``.

    Returns:
        Positions of r independent inputs, and the lower factor of their moments, shape ``(r, r)``.
    """
    root = np.sqrt(np.where(scale > 0, scale, 1.0))
    unit = moments / root[:, None] / root
    potrf, pstrf = _lapack()
    factor, failed = potrf(unit, lower=True, clean=True)
    if not failed and np.all(np.diag(factor) ** 2 > SPANNED):
        return np.arange(len(root)), root[:, None] * factor
    factor, order, rank, _ = pstrf(unit, tol=SPANNED, lower=True)
    rank = np.count_nonzero(np.diag(factor)[:rank] ** 2 > SPANNED)  # LAPACK does not compare the first with tol
    pivots = order[:rank].astype(np.int64) - 1
    return pivots, root[pivots, None] * np.tril(factor[:rank, :rank])


@cache
def _lapack() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Float64 Cholesky factorisations, without and with pivoting."""
    from scipy.linalg import get_lapack_funcs

    return tuple(get_lapack_funcs(("potrf", "pstrf"), dtype=np.float64))


def _solve_lower(factor: FloatArray, right: FloatArray) -> FloatArray:
    """``factor^-1 right`` for a lower triangular factor."""
    # SciPy's triangular solver uses another BLAS with its own threads; alternating between the two is slower than this
    return np.linalg.inv(factor) @ right
