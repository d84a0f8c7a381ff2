"""Convergence rates of greedy forward selection, as its theorems state them."""

import numpy as np
import pytest
from support.selection_problems import slope

from scionet.selection.greedy import greedy, picked
from scionet.selection.quadratic import AverageObjective, Contributions, LineSearchObjective


def atoms(phi: np.ndarray, target: np.ndarray) -> Contributions:
    """The problem of imitating `target` by the mean of some rows of `phi`."""
    n = len(phi)
    return Contributions(phi @ phi.T / n**2, phi @ target / n, float(target @ target))


def cross_polytope(d: int, norm: float) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Atoms ±e_j, a target of the given 1-norm, the radius of the ball around it, the largest distance to an atom."""
    target = np.random.default_rng(d).standard_normal(d)
    target *= norm / np.abs(target).sum()
    phi = np.vstack([np.eye(d), -np.eye(d)])
    return phi, target, (1 - norm) / np.sqrt(d), float(np.linalg.norm(phi - target, axis=1).max())


def neurons(m: int, seed: int) -> np.ndarray:
    """2,000 tanh neurons on m points."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, 10)) / np.sqrt(10)
    a, offset = 2 * rng.standard_normal((10, 2000)), 0.5 * rng.standard_normal(2000)
    b = rng.choice([-1, 1], 2000) * rng.uniform(0.5, 2, 2000)
    return (b * np.tanh(x @ a + offset)).T / np.sqrt(m)


def test_orthonormal_atoms_give_the_exact_rate() -> None:
    phi = np.eye(1000)
    values = np.array(greedy(AverageObjective(atoms(phi, phi.mean(axis=0))), 1000).values)
    n = np.arange(1, 1001)
    np.testing.assert_allclose(-values, 1 / n - 1 / 1000, rtol=0, atol=1e-12)


@pytest.mark.parametrize("d", [4, 10, 30])
@pytest.mark.parametrize("norm", [0.3, 0.6])
def test_interior_targets_are_reached_at_the_fast_rate(d, norm) -> None:
    phi, target, radius, distance = cross_polytope(d, norm)
    squares = -np.array(picked(AverageObjective(atoms(phi, target)), 5000).values)
    n = np.arange(1, 5001)
    assert np.all(n * np.sqrt(squares) <= distance**2 / (2 * radius) + distance)
    assert np.all(squares <= distance**2 / n)
    assert -2.1 <= slope(squares, 300, 5000) <= -1.9


@pytest.mark.parametrize("d", [4, 10, 30])
@pytest.mark.parametrize("norm", [0.3, 0.6])
def test_line_search_contracts_in_every_step(d, norm) -> None:
    phi, target, radius, _ = cross_polytope(d, norm)
    squares = -np.array(picked(LineSearchObjective(atoms(phi, target)), 200).values)
    assert np.all(np.diff(squares) <= 1e-15)
    above_rounding = squares[:-1] > 1e-12
    assert np.all((squares[1:] / np.maximum(squares[:-1], 1e-300))[above_rounding] <= 1 - radius**2 / 4)


@pytest.mark.parametrize("seed", [0, 1])
def test_twenty_points_show_both_rates(seed) -> None:
    phi = neurons(20, seed)
    target = phi.mean(axis=0)
    found = picked(AverageObjective(atoms(phi, target)), 4000)
    squares = -np.array(found.values)
    assert -2.1 <= slope(squares, 300, 4000) <= -1.9
    assert len(found.kept) < 300
    random = sampled(phi, target, seed)
    assert -1.1 <= np.polyfit(np.log(list(random)), np.log(list(random.values())), 1)[0] <= -0.9
    assert 200 * squares[99] <= random[100]
    assert -picked(LineSearchObjective(atoms(phi, target)), 400).values[-1] < 1e-14


def sampled(phi: np.ndarray, target: np.ndarray, seed: int) -> dict[int, float]:
    """Mean error of 200 random averages, by number of picks."""
    rng = np.random.default_rng(seed)
    return {
        n: float(np.mean([((phi[rng.integers(2000, size=n)].mean(axis=0) - target) ** 2).sum() for _ in range(200)]))
        for n in (10, 30, 100, 300, 1000)
    }


def test_two_hundred_points_are_still_slow() -> None:
    phi = neurons(200, 0)
    squares = -np.array(picked(AverageObjective(atoms(phi, phi.mean(axis=0))), 300).values)
    assert -1.35 <= slope(squares, 30, 300) <= -0.9
