"""ThiNet and LASSO: select units by reconstructing their consumers' output, then rescale each kept unit.

Both use only the inner products of the units' contributions, so their cost does not depend on the number of examples.
"""

import warnings

import numpy as np

from scionet.extras import extra
from scionet.selection.greedy import Selection, Status
from scionet.selection.terms import Contributions
from scionet.typing import FloatArray

RIDGE = 1e-10
"""Ridge relative to the mean of the diagonal. Duplicate units make the Gram matrix singular without it."""


def thinet(contributions: Contributions, n_units: int) -> Selection:
    """Remove units one at a time, keeping the squared sum of the removed contributions as small as possible.

    Source: Luo et al., *ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression*, ICCV 2017: greedy
    removal, then a least-squares multiplier for each kept channel. Differs in using all outputs and positions, where
    the paper samples some. One removal costs O(N).

    Args:
        contributions: Contributions of the units.
        n_units: Number of units to keep.
    """
    gram = contributions.gram
    with_removed, left = np.zeros(len(gram)), np.ones(len(gram), dtype=bool)
    removed = []
    for _ in range(len(gram)):
        increments = np.where(left, 2 * with_removed + np.diag(gram), np.inf)
        unit = int(np.argmin(increments))
        removed.append(unit)
        left[unit] = False
        with_removed += gram[unit]
    return rescaled(contributions, removed[::-1][:n_units])


def lasso(contributions: Contributions, n_units: int) -> Selection:
    """Keep the units with the largest multipliers, at the L1 penalty that leaves `n_units` of them.

    If no penalty leaves exactly `n_units`, the smallest multipliers are dropped. If the path ends with fewer units, the
    units with the largest contributions are added.

    Source: He et al., *Channel Pruning for Accelerating Very Deep Neural Networks*, ICCV 2017, with the multipliers
    refitted after selection. Differs in following the whole path of penalties (LARS) instead of doubling and bisecting
    the penalty, so the number of units is exact.

    Args:
        contributions: Contributions of the units, and their target.
        n_units: Number of units to keep.

    Raises:
        MissingExtra: If scikit-learn is not installed.
    """
    multipliers = np.abs(_path(contributions))
    counts = (multipliers > 0).sum(axis=0)
    reaching = np.flatnonzero(counts >= n_units)
    at = multipliers[:, reaching[0] if len(reaching) else -1]
    order = np.lexsort((np.arange(len(at)), -np.diag(contributions.gram), -at))
    return rescaled(contributions, order[:n_units].tolist())


def rescaled(contributions: Contributions, order: list[int]) -> Selection:
    """Fit the least-squares multipliers of these units, and record the error after each unit in order."""
    from scipy.linalg import cholesky, solve_triangular  # takes half of the time of importing scionet

    gram, cross = contributions.gram[np.ix_(order, order)], contributions.cross[order]
    ridge = RIDGE * max(float(np.diag(gram).mean()), np.finfo(np.float64).tiny)
    factor = cholesky(gram + ridge * np.eye(len(order)), lower=True)
    explained = solve_triangular(factor, cross, lower=True)
    weights = solve_triangular(factor, explained, lower=True, trans=1)
    errors = np.maximum(contributions.square - np.cumsum(explained**2), 0.0)
    ascending = np.argsort(order)
    kept = tuple(int(order[position]) for position in ascending)
    return Selection(kept, tuple(order), tuple((-errors).tolist()), tuple(weights[ascending].tolist()), Status.REPLAYED)


def _path(contributions: Contributions) -> FloatArray:
    """Multipliers of all units, ``(N, penalties)``, from the largest penalty to none.

    The path is linear between its knots. At a knot, units enter or leave with multiplier 0, so the midpoints between
    knots are used.
    """
    with extra("sklearn"):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import lars_path_gram

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # LARS drops duplicates and warns
        found = lars_path_gram(Xy=contributions.cross, Gram=contributions.gram.copy(), n_samples=1, method="lasso")
    knots = np.asarray(found[2], dtype=np.float64)
    return np.concatenate([(knots[:, :-1] + knots[:, 1:]) / 2, knots[:, -1:]], axis=1)
