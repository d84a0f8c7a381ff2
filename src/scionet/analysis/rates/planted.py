"""Greedy selection on planted problems: the general rate, the fast one, exponential decay, saturation, random atoms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scionet.analysis.rates.curves import (
    ROUNDING,
    Curve,
    Descent,
    Slope,
    descent,
    over_seeds,
    sampling,
    slope,
    window_slope,
)
from scionet.analysis.rates.geometry import Geometry
from scionet.analysis.rates.problems import Problem, cross_polytope, orthonormal, random_tanh
from scionet.typing import FloatArray

TIGHT, POLYTOPES, POINTS = 1000, ((10, 0.3), (10, 0.6)), (20, 60, 200)
"""Number of orthonormal atoms; dimension and 1-norm of the targets of cross-polytopes; examples of the tanh neurons."""
DRAWN = (10, 30, 100, 300, 1000)
"""Numbers of random atoms."""


@dataclass(frozen=True)
class Planted:
    """Greedy selection on one kind of problem.

    Attributes:
        label: Its name.
        geometry: That of the first seed.
        uniform: ``‖u − y‖²`` with weights 1/n, first seed.
        line_search: The same with line search.
        drawn: The same of random atoms, mean over draws; None if it was not measured.
        distinct: Distinct atoms after n picks with weights 1/n.
        slopes: Slopes of `uniform` over all seeds.
        drawn_slope: Slope of `drawn`.
        largest: The largest n‖u − y‖ with weights 1/n, over all seeds.
        contraction: The largest ratio of successive errors with line search, above rounding, over all seeds.
    """

    label: str
    geometry: Geometry
    uniform: Curve
    line_search: Curve
    drawn: Curve | None
    distinct: Curve
    slopes: tuple[Slope, ...]
    drawn_slope: Slope | None
    largest: float
    contraction: float


def tight(size: int = TIGHT) -> Planted:
    """Orthonormal atoms and their centroid. It has no randomness, so slopes have no interval."""
    return _planted(f"{size} orthonormal atoms", [orthonormal(size)], 3 * size, ((5, size // 10),))


def interior(dimension: int, norm: float, seeds: Sequence[int], n_picks: int = 5000) -> Planted:
    """Cross-polytopes with targets of a known interior radius."""
    problems = [cross_polytope(dimension, norm, seed) for seed in seeds]
    return _planted(f"±e_j in {dimension} dimensions, ‖y‖₁ = {norm}", problems, n_picks, ((300, n_picks),))


def tanh_neurons(points: int, seeds: Sequence[int], n_picks: int = 4000) -> Planted:
    """Random tanh neurons that imitate their own mean, and random atoms beside them."""
    problems = [random_tanh(points, seed) for seed in seeds]
    return _planted(f"2,000 tanh neurons, {points} examples", problems, n_picks, ((30, 300), (300, n_picks)), draws=200)


def planted(seeds: Sequence[int]) -> Iterator[Planted]:
    """All planted problems."""
    yield tight()
    for dimension, norm in POLYTOPES:
        yield interior(dimension, norm, seeds)
    for points in POINTS:
        yield tanh_neurons(points, seeds)


def largest_product(found: Descent) -> float:
    """The largest n‖u − y‖."""
    return float((np.arange(1, len(found.squares) + 1) * np.sqrt(found.squares)).max())


def worst_ratio(squares: FloatArray) -> float:
    """The largest ratio of successive errors that are above rounding."""
    above = squares[:-1] > ROUNDING * squares[0]
    return float((squares[1:][above] / squares[:-1][above]).max())


def _planted(
    label: str, problems: Sequence[Problem], n_picks: int, windows: Sequence[tuple[int, int]], draws: int = 0
) -> Planted:
    uniform = [descent(problem, n_picks) for problem in problems]
    searched = [descent(problem, min(n_picks, 1500), "line search") for problem in problems]
    drawn = [sampling(problem, DRAWN, draws, seed) for seed, problem in enumerate(problems)] if draws else []
    return Planted(
        label,
        Geometry.of(problems[0]),
        Curve.of("greedy, weights 1/n", uniform[0].squares),
        Curve.of("greedy, line search", searched[0].squares),
        Curve.of("random atoms", drawn[0], DRAWN) if drawn else None,
        Curve.of("distinct atoms", uniform[0].distinct),
        tuple(window_slope(uniform, first, last) for first, last in windows),
        over_seeds([slope(DRAWN, each) for each in drawn], DRAWN[0], DRAWN[-1]) if drawn else None,
        max(map(largest_product, uniform)),
        max(worst_ratio(each.squares) for each in searched),
    )
