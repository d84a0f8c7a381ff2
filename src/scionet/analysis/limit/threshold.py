"""The limit of pruning from a spectrum and the weights: how many weights can be removed.

Source: Zhang, Zhang, Sun, Liu, *How Sparse Can We Prune a Deep Network: A Fundamental Limit Perspective*, NeurIPS 2024.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scionet.analysis.limit.spectrum import Negatives, Spectrum
from scionet.errors import InvalidSetting
from scionet.typing import FloatArray


@dataclass(frozen=True)
class Limit:
    """The largest number of weights whose removal a tolerance allows.

    Attributes:
        removed: Number of weights that can be removed.
        weights: Number of all weights.
        squared_radius: Sum of the squares of the removed weights.
        dimension: Normalised statistical dimension at that radius.
    """

    removed: int
    weights: int
    squared_radius: float
    dimension: float

    @property
    def density(self) -> float:
        """Fraction of the weights that must be kept."""
        return 1 - self.removed / self.weights


def limit(weights: FloatArray, spectrum: Spectrum, tolerance: float, negatives: Negatives = "absolute") -> Limit:
    """The limit of pruning by magnitude: ``max {k : k/n ≤ f(R_k)}``.

    R_k² is the sum of the k smallest squares. It rises with k, and f falls with it. There is one crossing, which
    bisection finds.

    Args:
        weights: All weights that can be removed, in any shape.
        spectrum: Eigenvalues of the Hessian.
        tolerance: ε, by which the loss may rise.
        negatives: How negative eigenvalues count.

    Raises:
        InvalidSetting: If there are no weights, or some are not finite, or the tolerance is negative.
    """
    radii = squared_radii(weights)
    count = len(radii) - 1

    def dimension(k: int) -> float:
        return spectrum.dimension(float(radii[k]), tolerance, negatives)

    feasible, infeasible = 0, count + 1
    while infeasible - feasible > 1:
        middle = (feasible + infeasible) // 2
        if middle / count <= dimension(middle):
            feasible = middle
        else:
            infeasible = middle
    return Limit(feasible, count, float(radii[feasible]), dimension(feasible))


def squared_radii(weights: FloatArray) -> FloatArray:
    """R_k² for k = 0, 1, ..., n removed weights, ``(n + 1,)``: sums of the smallest squares.

    Raises:
        InvalidSetting: If there are no weights, or some are not finite.
    """
    squares = np.sort(np.asarray(weights, dtype=np.float64).ravel() ** 2)
    if not len(squares) or not np.isfinite(squares[-1]):
        raise InvalidSetting(
            "the limit of pruning needs weights, all finite; there are none, or some are NaN or infinite"
        )
    return np.concatenate([[0.0], np.cumsum(squares)])


@dataclass(frozen=True)
class Requirement:
    """The density that is needed to keep the loss, by the number of removed weights. Thinned to even steps.

    Where `needed` is at most `density`, the weights can be removed.

    Attributes:
        densities: Fractions of the weights kept, descending from 1.
        needed: ``1 − f(R)``, from the whole spectrum.
        needed_trace: The same from the trace alone; not below `needed`.
    """

    densities: tuple[float, ...]
    needed: tuple[float, ...]
    needed_trace: tuple[float, ...]


def requirement(
    weights: FloatArray, spectrum: Spectrum, tolerance: float, negatives: Negatives = "absolute", points: int = 101
) -> Requirement:
    """The density needed at each density, for figures; arguments as for `limit`."""
    radii = squared_radii(weights)
    count = len(radii) - 1
    places = np.unique(np.linspace(0, count, min(points, count + 1)).round().astype(int))

    def needed(form: Spectrum) -> Iterator[float]:
        return (1 - form.dimension(float(radii[k]), tolerance, negatives) for k in places)

    return Requirement(tuple((1 - places / count).tolist()), tuple(needed(spectrum)), tuple(needed(spectrum.averaged)))
