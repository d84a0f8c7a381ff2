"""Problems with known geometry: imitate a target by the mean of atoms, picked with repetition."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scionet.errors import InvalidSetting
from scionet.selection.quadratic import Contributions
from scionet.typing import FloatArray


@dataclass(frozen=True, eq=False)
class Problem:
    """Atoms φ_i and a target y. After n picks, u is the mean of the picked atoms, and the error is ‖u − y‖².

    An atom is the output of one neuron on all examples, divided by the root of their number, so that squared norms are
    means over examples.

    Attributes:
        atoms: Shape ``(N, M)``.
        target: Shape ``(M,)``.
        radius: Radius of the largest ball around the target, in the affine hull of the atoms, that lies in their convex
            hull; None if it is not known in closed form.
    """

    atoms: FloatArray
    target: FloatArray
    radius: float | None = None

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            InvalidSetting: If there are no atoms, or atoms and target differ in length.
        """
        if self.atoms.ndim != 2 or not len(self.atoms) or self.target.shape != self.atoms.shape[1:]:
            raise InvalidSetting(
                f"atoms have shape (N, M) and the target (M,); given {self.atoms.shape} and {self.target.shape}"
            )

    @cached_property
    def contributions(self) -> Contributions:
        """The inner products that greedy selection needs."""
        size = len(self.atoms)
        gram, cross = self.atoms @ self.atoms.T / size**2, self.atoms @ self.target / size
        return Contributions(gram, cross, float(self.target @ self.target))

    @classmethod
    def of_own_mean(cls, gram: FloatArray) -> "Problem":
        """Atoms that imitate their own mean, from the inner products of contributions ``φ_i / N``; shape ``(N, N)``.

        The atoms are vectors with these inner products, up to rounding.
        """
        values, vectors = np.linalg.eigh(len(gram) ** 2 * gram)
        kept = values > len(values) * np.finfo(float).eps * values[-1]  # the others are rounding
        atoms = vectors[:, kept] * np.sqrt(values[kept])
        return cls(atoms, atoms.mean(axis=0))

    @property
    def farthest(self) -> float:
        """D: the largest distance of an atom to the target."""
        return float(np.linalg.norm(self.atoms - self.target, axis=1).max())

    @property
    def diameter(self) -> float:
        """The largest distance between two atoms."""
        gram = self.contributions.gram * len(self.atoms) ** 2
        squares = np.diag(gram)
        return float(np.sqrt(max((squares[:, None] + squares - 2 * gram).max(), 0.0)))


def orthonormal(size: int) -> Problem:
    """Orthonormal atoms and their centroid: the tight case of the general rate, ``‖u − y‖² = 1/n − 1/N``."""
    atoms = np.eye(size)
    return Problem(atoms, atoms.mean(axis=0), 1 / math.sqrt(size * (size - 1)) if size > 1 else 0.0)


def cross_polytope(dimension: int, norm: float, seed: int) -> Problem:
    """Atoms ±e_j and a random target of this 1-norm, which lies inside for a norm below 1.

    Raises:
        InvalidSetting: If the norm is not from 0 to 1.
    """
    if not 0 <= norm < 1:
        raise InvalidSetting(f"the 1-norm of an interior target is from 0 to below 1; given {norm}")
    target = np.random.default_rng(seed).standard_normal(dimension)
    target *= norm / np.abs(target).sum()
    return Problem(np.vstack([np.eye(dimension), -np.eye(dimension)]), target, (1 - norm) / math.sqrt(dimension))


def random_tanh(points: int, seed: int, size: int = 2000, dimension: int = 10) -> Problem:
    """Random tanh neurons and their mean: P(m), the standard problem.

    Inputs are N(0, 1)/√d, weights 2 N(0, I), offsets N(0, 1)/2, output weights ±U[0.5, 2].

    Args:
        points: Number m of examples.
        seed: Seed of inputs and neurons.
        size: Number N of neurons.
        dimension: Dimension d of the inputs.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((points, dimension)) / np.sqrt(dimension)
    weight, offset = 2 * rng.standard_normal((dimension, size)), 0.5 * rng.standard_normal(size)
    output = rng.choice([-1, 1], size) * rng.uniform(0.5, 2, size)
    atoms = (output * np.tanh(x @ weight + offset)).T / np.sqrt(points)
    return Problem(atoms, atoms.mean(axis=0))


def scaled_target(problem: Problem, count: int, factor: float, seed: int) -> Problem:
    """The same atoms with another target: a multiple of the mean of some random atoms."""
    chosen = np.random.default_rng(seed).choice(len(problem.atoms), count, replace=False)
    return Problem(problem.atoms, factor * problem.atoms[chosen].mean(axis=0))
