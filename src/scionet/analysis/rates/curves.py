"""The error of a selection after each pick, and how fast it falls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scionet.analysis.rates.problems import Problem
from scionet.errors import InvalidSetting
from scionet.selection.greedy import Selection, picked
from scionet.selection.quadratic import AverageObjective, LineSearchObjective
from scionet.typing import FloatArray, IntArray

Step = Literal["uniform", "line search"]
CONFIDENCE = 0.95
ROUNDING = 1e-12
"""Errors below this fraction of the first one are rounding, and have no rate."""


@dataclass(frozen=True, eq=False)
class Descent:
    """A greedy selection, pick by pick.

    Attributes:
        squares: ``‖u − y‖²`` after 1, 2, ... picks.
        distinct: Number of distinct atoms picked so far.
        kept: Number of atoms with weight at the end.
    """

    squares: FloatArray
    distinct: IntArray
    kept: int


def descent(problem: Problem, n_picks: int, step: Step = "uniform", *, repetition: bool = True) -> Descent:
    """Pick greedily.

    Args:
        problem: Atoms and target.
        n_picks: Number of picks.
        step: ``"uniform"``: every pick has weight 1/n (ICML 2020). ``"line search"``: the best step towards the picked
            atom (NeurIPS 2020).
        repetition: Whether atoms may be picked again.
    """
    kind = AverageObjective if step == "uniform" else LineSearchObjective
    found: Selection = picked(kind(problem.contributions), n_picks, repetition=repetition)
    order = np.array(found.order, dtype=np.int64)
    new = np.zeros(len(order), dtype=np.int64)
    new[np.unique(order, return_index=True)[1]] = 1
    return Descent(-np.array(found.values), np.cumsum(new), len(found.kept))


def sampling(problem: Problem, counts: Sequence[int], draws: int, seed: int) -> FloatArray:
    """Mean error of random atoms, drawn with replacement, for each number of atoms; ``(counts,)``.

    Its expectation is Var/n, where Var is the mean square of ``φ_i − y`` over the atoms, if y is their mean.
    """
    rng = np.random.default_rng(seed)
    errors = []
    for count in counts:
        means = np.stack(
            [problem.atoms[rng.integers(len(problem.atoms), size=count)].mean(axis=0) for _ in range(draws)]
        )
        errors.append(float(((means - problem.target) ** 2).sum(axis=1).mean()))
    return np.array(errors)


@dataclass(frozen=True)
class Slope:
    """Least-squares slope of log(error) against log(n).

    Attributes:
        first: First n of the window.
        last: Last n of the window.
        value: The mean slope over all seeds.
        low: Lower end of the 95 % interval (Student's t over seeds); None with a single seed.
        high: Its upper end.
        seeds: Number of seeds.
    """

    first: int
    last: int
    value: float
    low: float | None
    high: float | None
    seeds: int


def slope(n: Sequence[int] | IntArray, errors: FloatArray) -> float:
    """Least-squares slope of log(errors) against log(n).

    Raises:
        InvalidSetting: If there are fewer than two points, or an error is not above 0.
    """
    if len(n) < 2 or not np.all(errors > 0):
        raise InvalidSetting("a slope needs two points or more, with errors above 0; use a window above rounding")
    return float(np.polyfit(np.log(n), np.log(errors), 1)[0])


def window_slope(descents: Sequence[Descent], first: int, last: int) -> Slope:
    """The slope over all n from `first` to `last` whose errors are above rounding, over several seeds.

    Raises:
        InvalidSetting: If there are fewer than two such n.
    """
    slopes = []
    for found in descents:
        n = np.arange(first, last + 1)
        n = n[found.squares[n - 1] > ROUNDING * found.squares[0]]
        slopes.append(slope(n, found.squares[n - 1]))
    return over_seeds(slopes, first, last)


def over_seeds(slopes: Sequence[float], first: int, last: int) -> Slope:
    """Mean slope with its interval."""
    from scipy.stats import t  # slow to import

    count, mean = len(slopes), float(np.mean(slopes))
    if count < 2:
        return Slope(first, last, mean, None, None, count)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(slopes, ddof=1) / np.sqrt(count))
    return Slope(first, last, mean, mean - half, mean + half, count)


@dataclass(frozen=True)
class Curve:
    """A line of a figure.

    Attributes:
        label: Its name.
        n: Positions, ascending.
        values: Values at these positions.
    """

    label: str
    n: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, label: str, values: FloatArray | IntArray, n: Sequence[int] | None = None) -> "Curve":
        """A curve; without positions the values are those after 1, 2, ... picks, thinned to even steps of log n."""
        if n is None:
            n = spread(1, len(values))
            values = values[np.array(n) - 1]
        return cls(label, tuple(int(k) for k in n), tuple(float(f"{value:.6g}") for value in values))


def spread(first: int, last: int, count: int = 60) -> tuple[int, ...]:
    """Up to `count` whole numbers from `first` to `last`, even in their logarithm."""
    return tuple(np.unique(np.geomspace(first, last, count).round().astype(int)).tolist())
