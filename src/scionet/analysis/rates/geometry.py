"""Where a target lies among atoms, and what the theorems promise there."""

from dataclasses import dataclass

from scionet.analysis.rates.hulls import CERTIFIED, Bounds, distance_to_hull, interior_radius
from scionet.analysis.rates.problems import Problem

RADIUS_DIMENSIONS = 128
"""Dimensions up to which the interior radius is computed; beyond, a linear programme takes seconds."""


@dataclass(frozen=True)
class Geometry:
    """Where a target lies among atoms.

    Attributes:
        atoms: Number of atoms.
        dimension: Length of an atom.
        distance: Distance of the target to the convex hull.
        radius: Radius of the largest ball around it in the hull; None if it was not computed.
        farthest: D, the largest distance of an atom to the target.
        diameter: The largest distance between two atoms.
    """

    atoms: int
    dimension: int
    distance: Bounds
    radius: Bounds | None
    farthest: float
    diameter: float

    @classmethod
    def of(cls, problem: Problem) -> "Geometry":
        """Measure a problem; a radius that is known is taken as it is.

        Raises:
            AnalysisError: If a solver did not converge.
        """
        size, dimension = problem.atoms.shape
        if problem.radius is not None:
            distance, radius = Bounds(0.0, 0.0), Bounds(problem.radius, problem.radius)
        else:
            distance = distance_to_hull(problem.atoms, problem.target)
            inside = distance.low == 0 and min(size, dimension) <= RADIUS_DIMENSIONS
            radius = interior_radius(problem.atoms, problem.target, _starts(dimension)) if inside else None
        return cls(size, dimension, distance, radius, problem.farthest, problem.diameter)

    @property
    def onset(self) -> float | None:
        """D²/(4γ²): the number of picks from which the fast rate's bound is below the general one's."""
        return self.farthest**2 / (4 * self.radius.high**2) if self.radius and self.radius.high else None

    @property
    def fast_bound(self) -> float | None:
        """D²/(2γ) + D, which n‖u − y‖ does not exceed."""
        return self.farthest**2 / (2 * self.radius.high) + self.farthest if self.radius and self.radius.high else None


def _starts(dimension: int) -> int:
    """Starts of the search for the radius; in many dimensions, each takes seconds."""
    return 8 if dimension <= CERTIFIED else 2
