"""Where a target lies in a convex hull: its distance, and the largest ball around it inside. Both come as bounds."""

import math
from dataclasses import dataclass

import numpy as np

from scionet.errors import AnalysisError
from scionet.typing import FloatArray

ATTAINED = 1e-9
"""A target counts as lying in the hull if its distance is below this fraction of the farthest atom's."""
FEASIBLE = 1e-8
"""A constraint of a linear programme may be violated by this much, relative to its bound."""
CERTIFIED = 24
"""Dimensions up to which the radius gets a lower bound, which takes two linear programmes per dimension."""
THIN = 1e-5
"""Extent of a hull along a principal axis, relative to the farthest atom, at which linear programmes end."""
RANK = 1e-10
"""Singular values below this fraction of the largest one are 0."""


@dataclass(frozen=True)
class Bounds:
    """A quantity that lies between two numbers, each with a certificate."""

    low: float
    high: float


def distance_to_hull(atoms: FloatArray, target: FloatArray) -> Bounds:
    """Distance of a target to the convex hull of atoms.

    The nearest point is found by nonnegative least squares: ``min ‖Xᵀw‖² + (1ᵀw − 1)²`` over w ≥ 0, with the
    differences X of atoms and target, has the solution of the constrained problem times a factor. The upper bound is
    the distance of that point, and the lower one that of a plane that separates the target from the atoms.

    Source: Lawson, Hanson, *Solving Least Squares Problems*, 1974, chapter 23 (least distance programming).

    Args:
        atoms: Shape ``(N, M)``.
        target: Shape ``(M,)``.

    Raises:
        AnalysisError: If the solver did not converge.
    """
    from scipy.optimize import nnls  # slow to import

    shifted = _coordinates(atoms - target)
    scale = float(np.linalg.norm(shifted, axis=1).max()) or 1.0
    matrix = np.vstack([shifted.T / scale, np.ones(len(shifted))])
    try:
        weights, _ = nnls(matrix, np.append(np.zeros(shifted.shape[1]), 1.0), maxiter=30 * len(shifted))
    except RuntimeError as error:
        raise AnalysisError(f"the distance to the hull of {len(atoms)} atoms was not found: {error}") from error
    nearest = weights @ shifted / weights.sum()
    high = float(np.linalg.norm(nearest))
    if high <= ATTAINED * scale:
        return Bounds(0.0, high)
    return Bounds(max(float((shifted @ nearest).min()) / high, 0.0), high)


def interior_radius(atoms: FloatArray, target: FloatArray, starts: int = 8, seed: int = 0) -> Bounds:
    """Radius of the largest ball around a target, in the affine hull of atoms, that lies in their convex hull.

    The radius is ``1 / max ‖w‖`` over the polar body ``{w: Xw ≤ 1}`` with the differences X of atoms and target. To
    maximise a norm is not a convex problem, so there are two bounds from linear programmes, up to their tolerance of
    1e-7. For the upper one, each start moves to the point of the body that lies farthest in its own direction, until
    none is farther; on bodies whose radius is known, it is exact. For the lower one, the extents of the body along the
    principal axes of X bound the norm. It is loose by a factor of up to the root of the dimension, and is not computed
    (0) in more than `CERTIFIED` dimensions.

    The upper bound is never above the hull's extent along a principal axis. Where a hull is too thin for the solver,
    that extent is the upper bound, and the lower one is 0.

    Args:
        atoms: Shape ``(N, M)``.
        target: Shape ``(M,)``.
        starts: Number of starts.
        seed: Seed of the random ones among them.

    Returns:
        Both bounds; 0 and 0 if the target does not lie in the relative interior.

    Raises:
        AnalysisError: If the solver cannot tell whether the target lies inside.
    """
    shifted = _coordinates(atoms - target)
    rank = shifted.shape[1]
    if rank == 0 or _rank(shifted - shifted.mean(axis=0)) < rank or not _interior(shifted):
        return Bounds(0.0, 0.0)
    scale = float(np.linalg.norm(shifted, axis=1).max())
    thinnest = max(float(min(shifted.max(axis=0).min(), (-shifted).max(axis=0).min())), 0.0)
    if thinnest <= THIN * scale:
        return Bounds(0.0, thinnest)
    body = _PolarBody(shifted / scale)
    climbed = [scale / body.climbed(start) for start in _starts(shifted, starts, seed)]
    return Bounds(scale / body.largest_norm() if rank <= CERTIFIED else 0.0, min(thinnest, *climbed))


def _interior(atoms: FloatArray) -> bool:
    """Whether 0 is a combination of all atoms with weights above 0: it then lies in the relative interior.

    Raises:
        AnalysisError: If the linear programme was not solved.
    """
    from scipy.optimize import linprog  # slow to import

    size, scale = len(atoms), float(np.linalg.norm(atoms, axis=1).max())
    # weights 1 + v with v ≥ 0, up to a factor: the least sum of v is finite if they exist
    total = atoms.sum(axis=0) / scale
    found = linprog(np.ones(size), A_eq=atoms.T / scale, b_eq=-total, bounds=(0, None), method="highs")
    if found.status not in (0, 2):
        raise AnalysisError(f"a linear programme over {size} atoms was not solved: {found.message}")
    return found.status == 0


def _starts(atoms: FloatArray, count: int, seed: int) -> list[FloatArray]:
    """Directions in which the hull may end soon: away from the centroid, of small singular values, at random."""
    rank = atoms.shape[1]
    axes = [sign * axis for axis in np.eye(rank)[::-1] for sign in (1, -1)]
    offset = atoms.mean(axis=0)
    first = [-offset, *axes] if np.linalg.norm(offset) > RANK * np.linalg.norm(atoms, axis=1).max() else axes
    known = first[: (count + 1) // 2]
    return [*known, *np.random.default_rng(seed).standard_normal((count - len(known), rank))]


class _PolarBody:
    """``{w: Xw ≤ 1}`` for X of shape ``(N, rank)``, which has 0 inside its hull.

    Few atoms matter for a linear programme. Each is solved with some of them, and those that it violates are added. The
    next one begins with those that were tight in the last. The solver sees coordinates of equal scale.
    """

    def __init__(self, atoms: FloatArray) -> None:
        self._scales, rank = np.sqrt((atoms**2).mean(axis=0)), atoms.shape[1]
        self._atoms = atoms = atoms / self._scales
        directions = np.vstack([np.eye(rank), np.random.default_rng(0).standard_normal((rank, rank))])
        along = atoms @ directions.T
        self._first = np.zeros(len(atoms), dtype=bool)
        self._first[np.concatenate([along.argmax(axis=0), along.argmin(axis=0)])] = True
        self._tight = np.zeros(len(atoms), dtype=bool)

    def farthest(self, direction: FloatArray) -> FloatArray | None:
        """The point that lies farthest in a direction; None if the solver does not find it."""
        used, scaled = self._first | self._tight, direction / self._scales
        while True:
            point = _solved(self._atoms[used], scaled / np.linalg.norm(scaled))
            if point is None and used.all():
                return None
            excess = np.ones(len(used)) if point is None else self._atoms @ point - 1
            excess[used] = 0
            if point is not None and excess.max() <= FEASIBLE:
                self._tight = np.abs(self._atoms @ point - 1) <= FEASIBLE
                return point / (1 + max(float(excess.max()), 0.0)) / self._scales
            used[np.argsort(-excess)[: 2 * len(direction)]] = True

    def climbed(self, direction: FloatArray) -> float:
        """The norm reached by moving to the point that lies farthest in the direction of the last one."""
        length = np.finfo(float).tiny
        while True:
            point = self.farthest(direction / np.linalg.norm(direction))
            if point is None or np.linalg.norm(point) <= length * (1 + 1e-9):
                return length
            direction, length = point, float(np.linalg.norm(point))

    def largest_norm(self) -> float:
        """An upper bound on the norm of all points, from the extents along the axes; infinite if one is not found."""
        extents = []
        for axis in np.eye(len(self._scales)):
            ends = [self.farthest(sign * axis) for sign in (1, -1)]
            extents.append(max(math.inf if end is None else abs(float(axis @ end)) for end in ends))
        return float(np.linalg.norm(extents))


def _solved(atoms: FloatArray, direction: FloatArray) -> FloatArray | None:
    """``argmax ⟨direction, w⟩`` over ``Xw ≤ 1``, from the dual programme, which is faster; None if there is none."""
    from scipy.optimize import linprog  # slow to import

    found = linprog(np.ones(len(atoms)), A_eq=atoms.T, b_eq=direction, bounds=(0, None), method="highs")
    return found.eqlin.marginals if found.status == 0 else None


def _coordinates(vectors: FloatArray) -> FloatArray:
    """Coordinates of vectors along the principal axes of their span, ``(N, rank)``."""
    _, values, axes = np.linalg.svd(vectors, full_matrices=False)
    return vectors @ axes[values > RANK * max(values[0], np.finfo(float).tiny)].T


def _rank(vectors: FloatArray) -> int:
    values = np.linalg.svd(vectors, compute_uv=False)
    return int(np.count_nonzero(values > RANK * max(values[0], np.finfo(float).tiny)))
