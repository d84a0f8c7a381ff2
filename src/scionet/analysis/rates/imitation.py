"""Local imitation at a site of a network: how well the consumers' output is kept, by the number of kept units."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scionet.analysis.rates.curves import Curve, Descent, Slope, descent, window_slope
from scionet.analysis.rates.geometry import Geometry
from scionet.analysis.rates.planted import largest_product, worst_ratio
from scionet.analysis.rates.problems import Problem
from scionet.errors import InvalidSetting
from scionet.selection.backward import backward_elimination
from scionet.selection.greedy import greedy as selected
from scionet.selection.greedy import replay
from scionet.selection.quadratic import Contributions, LeastSquaresObjective
from scionet.selection.terms import Term
from scionet.typing import FloatArray, IntArray

RANDOM_SUPPORTS = 5
PICKS_PER_UNIT = 8
"""Picks with repetition per unit of the site; fewer distinct units than that many picks allow are not shown."""
EXACT = 1e-10
"""Relative errors below this are rounding, and are not shown."""


@dataclass(frozen=True)
class SiteImitation:
    """Relative errors at a site's consumers.

    Attributes:
        site: Name of the site.
        units: Number N of its units.
        curves: Errors by the number of distinct units kept, one curve for each way to choose and to weigh them.
        slopes: Slopes of the error of greedy selection with weights 1/n by picks.
        geometry: The dense output among the units' contributions.
        largest: The largest n‖u − y‖ with weights 1/n.
        contraction: The largest ratio of successive errors with line search, above rounding.
        distinct: Distinct units among the picks with weights 1/n.
        picks: Number of these picks.
    """

    site: str
    units: int
    curves: tuple[Curve, ...]
    slopes: tuple[Slope, ...]
    geometry: Geometry
    largest: float
    contraction: float
    distinct: int
    picks: int


def imitated(site: str, terms: Sequence[Term], seed: int) -> SiteImitation:
    """Compare ways to choose and to weigh the units of a site.

    Args:
        site: Name of the site.
        terms: Its consumers, without shrinkage; their targets are their dense outputs.
        seed: Seed of the random supports.

    Raises:
        InvalidSetting: If there are fewer than four units.
    """
    problem = Problem.of_own_mean(Contributions.from_terms(terms).gram)
    size = len(problem.atoms)
    if size < 4:
        raise InvalidSetting(f"{site} has {size} units; rates are measured at sites of four units or more")
    n_picks = PICKS_PER_UNIT * size
    uniform, searched = descent(problem, n_picks), descent(problem, n_picks, "line search")
    objective = LeastSquaresObjective(terms)
    orders = [np.random.default_rng([seed, run]).permutation(size).tolist() for run in range(RANDOM_SUPPORTS)]
    refitted = np.mean([replay(objective, order).values for order in orders], axis=0)
    return SiteImitation(
        site,
        size,
        (
            _curve("random units, weights N/k", np.mean([_averages(problem, order) for order in orders], axis=0)),
            _curve("greedy, weights 1/n", *_by_distinct(uniform)),
            _curve("greedy, line search", *_by_distinct(searched)),
            _curve("random units, least squares", -refitted),
            _curve("backward elimination, least squares", _errors(backward_elimination(terms, size).values)),
            _curve("greedy, least squares", _errors(selected(objective, size).values)),
        ),
        tuple(window_slope([uniform], *window) for window in _windows(uniform.squares)),
        Geometry.of(problem),
        largest_product(uniform),
        worst_ratio(searched.squares),
        int(uniform.distinct[-1]),
        n_picks,
    )


def _averages(problem: Problem, order: Sequence[int]) -> FloatArray:
    """Errors of the means of the first 1, 2, ... atoms of an order."""
    means = np.cumsum(problem.atoms[list(order)], axis=0) / np.arange(1, len(order) + 1)[:, None]
    return ((means - problem.target) ** 2).sum(axis=1)


def _by_distinct(found: Descent) -> tuple[FloatArray, IntArray]:
    """The least error with each number of distinct units, and these numbers."""
    numbers = np.unique(found.distinct)
    return np.array([found.squares[found.distinct == number].min() for number in numbers]), numbers


def _curve(label: str, errors: FloatArray, numbers: IntArray | None = None) -> Curve:
    """A curve over 1, 2, ... units, or over these numbers of units."""
    shown = np.flatnonzero(errors > EXACT)
    return Curve.of(label, errors[shown], (shown + 1 if numbers is None else numbers[shown]).tolist())


def _errors(values: Sequence[float]) -> FloatArray:
    return -np.array(values)


def _windows(squares: FloatArray) -> list[tuple[int, int]]:
    """An early and a late window of picks with errors above rounding, each a third of the decades."""
    last = int(np.flatnonzero(squares > EXACT)[-1]) + 1
    bounds = np.unique(np.geomspace(max(4, last // 100), last, 3).round().astype(int))
    return [(int(a), int(b)) for a, b in pairwise(bounds) if b > a + 1]
