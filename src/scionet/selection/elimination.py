"""Units chosen by what their consumers' output loses, each kept unit rescaled by least squares: ThiNet and the LASSO.

Both work on the inner products of the units' contributions alone, whatever the number of examples.
"""

import warnings

import numpy as np

from scionet.extras import extra
from scionet.selection.greedy import Selection, Status
from scionet.selection.objective import FloatArray
from scionet.selection.terms import Contributions

RIDGE = 1e-10
"""Added to the diagonal, times its mean: duplicate units make the inner products singular."""


def thinet(contributions: Contributions, n_units: int) -> Selection:
    """Remove, one at a time, the unit whose contribution keeps the sum of all removed ones smallest.

    Source: Luo et al., *ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression*, ICCV 2017: greedy
    removal, then least squares for a multiplier of each channel that stays. Differs in that all outputs and positions
    count, where the paper samples some; one removal costs O(N).

    Args:
        contributions: Of the units.
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
    """Keep the units with the largest multipliers where an L1 penalty on them leaves so many.

    Source: He et al., *Channel Pruning for Accelerating Very Deep Neural Networks*, ICCV 2017, with a multiplier of
    each channel refitted after the choice. Differs in that the whole path of penalties is followed (LARS) instead of a
    doubled and bisected one: the number of units is exact. Where the path skips it, the smallest multipliers go; where
    it ends earlier, units that contribute most come in.

    Args:
        contributions: Of the units, and what they are to add up to.
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
    """These units with the multipliers that imitate the target best, and the error whenever one more had come in."""
    from scipy.linalg import cholesky, solve_triangular  # half of the time that importing scionet would take

    gram, cross = contributions.gram[np.ix_(order, order)], contributions.cross[order]
    ridge = RIDGE * max(float(np.diag(gram).mean()), np.finfo(np.float64).tiny)
    factor = cholesky(gram + ridge * np.eye(len(order)), lower=True)
    explained = solve_triangular(factor, cross, lower=True)
    weights = solve_triangular(factor, explained, lower=True, trans=1)
    errors = np.maximum(contributions.square - np.cumsum(explained**2), 0.0)
    places = np.argsort(order)
    kept = tuple(int(order[place]) for place in places)
    return Selection(kept, tuple(order), tuple((-errors).tolist()), tuple(weights[places].tolist()), Status.REPLAYED)


def _path(contributions: Contributions) -> FloatArray:
    """Multipliers of all units, ``(N, penalties)``, from the largest penalty to none.

    The path is linear between its corners, and at these units come in or go out with 0: so in the midst between them.
    """
    with extra("sklearn"):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import lars_path_gram

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of duplicates, of which one is left out
        found = lars_path_gram(Xy=contributions.cross, Gram=contributions.gram.copy(), n_samples=1, method="lasso")
    corners = np.asarray(found[2], dtype=np.float64)
    return np.concatenate([(corners[:, :-1] + corners[:, 1:]) / 2, corners[:, -1:]], axis=1)
