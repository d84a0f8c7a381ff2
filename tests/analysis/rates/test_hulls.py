"""Distances and radii in closed form, by brute force, and by the facets of hulls in few dimensions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial import ConvexHull

from scionet.analysis.rates.hulls import Bounds, distance_to_hull, interior_radius
from scionet.analysis.rates.problems import cross_polytope, orthonormal

ROUNDING = 1e-9


def facet_radius(atoms: np.ndarray, target: np.ndarray) -> float:
    """The distance to the nearest facet; below 0 outside."""
    equations = ConvexHull(atoms).equations
    return float(-(equations[:, :-1] @ target + equations[:, -1]).max())


def holds(bounds: Bounds, value: float) -> bool:
    return bounds.low - ROUNDING <= value <= bounds.high + ROUNDING


@given(st.integers(0, 500), st.integers(2, 5), st.integers(0, 20))
def test_distances_are_those_of_a_constrained_problem(seed, dimension, more) -> None:
    rng = np.random.default_rng(seed)
    atoms, target = rng.standard_normal((dimension + 1 + more, dimension)), 1.5 * rng.standard_normal(dimension)
    found = distance_to_hull(atoms, target)
    assert found.high - found.low < 1e-7
    size = len(atoms)
    slow = minimize(
        lambda w: float(((w @ atoms - target) ** 2).sum()),
        np.full(size, 1 / size),
        jac=lambda w: 2 * atoms @ (w @ atoms - target),
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(size)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert np.sqrt(max(slow.fun, 0)) == pytest.approx(found.high, abs=2e-4)
    assert found.low <= np.sqrt(max(slow.fun, 0)) + 1e-6


@settings(max_examples=25)
@given(st.integers(0, 500), st.integers(2, 4), st.integers(3, 30))
def test_radii_are_those_of_the_nearest_facet(seed, dimension, more) -> None:
    rng = np.random.default_rng(seed)
    atoms = rng.standard_normal((dimension + more, dimension))
    target = atoms.mean(axis=0) + 0.3 * rng.standard_normal(dimension)
    exact = facet_radius(atoms, target)
    found = interior_radius(atoms, target, starts=20)
    if exact <= 0:
        assert (found, distance_to_hull(atoms, target).high > 0) == (Bounds(0.0, 0.0), True)
    else:
        assert holds(found, exact)
        assert found.high == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("dimension", [4, 10, 30])
@pytest.mark.parametrize("norm", [0.3, 0.6])
def test_cross_polytopes_have_a_known_radius(dimension, norm) -> None:
    problem = cross_polytope(dimension, norm, dimension)
    found = interior_radius(problem.atoms, problem.target)
    assert found.high == pytest.approx(problem.radius, rel=1e-9)
    assert (0 < found.low <= found.high) if dimension <= 24 else found.low == 0
    assert distance_to_hull(problem.atoms, problem.target) == Bounds(0.0, pytest.approx(0, abs=1e-12))


def test_a_simplex_has_a_radius_within_its_affine_hull() -> None:
    problem = orthonormal(12)
    found = interior_radius(problem.atoms, problem.target)
    assert problem.radius == pytest.approx(1 / np.sqrt(12 * 11))
    assert found.high == pytest.approx(problem.radius, rel=1e-9)
    assert holds(found, problem.radius or 0.0)


def test_targets_beside_the_affine_hull_have_no_radius() -> None:
    atoms = np.eye(3)
    assert interior_radius(atoms, np.zeros(3)) == Bounds(0.0, 0.0)
    found = distance_to_hull(atoms, np.zeros(3))
    assert found.low == pytest.approx(1 / np.sqrt(3))
    assert found.high == pytest.approx(1 / np.sqrt(3))


def test_a_target_on_the_surface_has_no_radius_and_no_distance() -> None:
    square = np.array([[0.0, 0.0], [1, 0], [0, 1], [1, 1]])
    assert interior_radius(square, np.array([0.5, 0.0])).low == 0
    assert interior_radius(square, np.array([0.5, 0.0])).high < 1e-7
    assert distance_to_hull(square, np.array([0.5, 0.0])).low == 0


def test_one_atom_and_equal_atoms() -> None:
    atoms = np.ones((3, 2))
    assert interior_radius(atoms, np.ones(2)) == Bounds(0.0, 0.0)
    assert distance_to_hull(atoms, np.ones(2)) == Bounds(0.0, 0.0)
    assert distance_to_hull(atoms[:1], np.array([1.0, 3.0])).high == pytest.approx(2)


def test_thin_hulls_have_a_bound_all_the_same() -> None:
    """Singular values over nine decades, as those of smooth neurons."""
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((200, 10)) * np.logspace(0, -9, 10)
    found = interior_radius(atoms, atoms.mean(axis=0))
    assert found.low == 0
    assert 0 < found.high < 1e-7


def test_lengths_scale_and_directions_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    atoms, target = rng.standard_normal((40, 6)), 0.1 * rng.standard_normal(6)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    first, second = (interior_radius(f * atoms @ q, f * target @ q, 40) for f, q in ((1, np.eye(6)), (1000, turn)))
    assert second.high == pytest.approx(1000 * first.high, rel=1e-6)
    outside = 5 * np.ones(6)
    far = distance_to_hull(atoms, outside).high
    assert distance_to_hull(1000 * atoms @ turn, 1000 * outside @ turn).high == pytest.approx(1000 * far, rel=1e-9)
