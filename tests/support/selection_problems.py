"""Random layers with their slow, obvious definitions: everything is computed from explicit outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scionet.selection.quadratic import Term
from scionet.typing import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear map on explicit inputs: x (rows, D), weight (O, D), target (rows, O)."""

    x: FloatArray
    weight: FloatArray
    target: FloatArray
    columns: IntArray
    fixed: IntArray

    @property
    def term(self) -> Term:
        rows = len(self.x)
        yy = float((self.target**2).sum() / rows)
        return Term(self.x.T @ self.x / rows, self.x.T @ self.target / rows, yy, self.columns, self.fixed, self.weight)

    @property
    def contributions(self) -> FloatArray:
        """(N, rows, O)."""
        return np.stack([self.x[:, c] @ self.weight[:, c].T for c in self.columns])

    @property
    def goal(self) -> FloatArray:
        """What the units are to add up to."""
        return self.target - self.x[:, self.fixed] @ self.weight[:, self.fixed].T

    def error(self, weights: FloatArray) -> float:
        """Relative error with the given multiplier of each unit."""
        given = np.tensordot(weights, self.contributions, axes=1)
        return float(((self.goal - given) ** 2).sum() / (self.target**2).sum())

    def refit_error(self, units: Sequence[int], ridge: float) -> float:
        """Relative regularised error of the regression on units and fixed inputs."""
        used = np.concatenate([self.fixed, self.columns[list(units)].ravel()]).astype(int)
        absolute = ridge * np.mean((self.x**2).sum(axis=0))
        x = np.vstack([self.x[:, used], np.sqrt(absolute) * np.eye(len(used))])
        y = np.vstack([self.target, np.zeros((len(used), self.target.shape[1]))])
        residual = y - x @ np.linalg.lstsq(x, y, rcond=1e-10)[0]
        return float((residual**2).sum() / (self.target**2).sum())


def layer(
    seed: int,
    *,
    size: int = 6,
    width: int = 1,
    outputs: int = 4,
    rows: int = 40,
    n_fixed: int = 0,
    asymmetric: bool = False,
) -> Layer:
    """Rectified, correlated inputs; columns in random order."""
    rng = np.random.default_rng(seed)
    d = size * width + n_fixed
    x = np.maximum(rng.standard_normal((rows, d)) @ rng.standard_normal((d, d)) / np.sqrt(d), 0)
    weight = rng.standard_normal((outputs, d))
    seen = x + 0.3 * rng.standard_normal(x.shape) if asymmetric else x
    columns = rng.permutation(d)
    return Layer(x, weight, seen @ weight.T, columns[n_fixed:].reshape(size, width), columns[:n_fixed])


def brute_force(size: int, n_picks: int, worth: Callable[[list[int]], float], repetition: bool) -> list[int]:
    """Greedy by the definition: try every candidate, first index on ties."""
    order: list[int] = []
    for _ in range(n_picks):
        candidates = [i for i in range(size) if repetition or i not in order]
        worths = [worth([*order, i]) for i in candidates]
        order.append(candidates[int(np.argmax(worths))])
    return order


def slope(values: FloatArray, first: int, last: int) -> float:
    """Least-squares slope of log(values) against log(n), n from `first` to `last`; values start at n = 1."""
    n = np.arange(first, last + 1)
    return float(np.polyfit(np.log(n), np.log(values[first - 1 : last]), 1)[0])


def suppressor() -> Term:
    """Three unit columns a, b, c of a regression: b alone explains nothing, and with a everything."""
    half = 1 / np.sqrt(2)
    gram = np.array([[1.0, half, 0.45 * half], [half, 1.0, 0.0], [0.45 * half, 0.0, 1.0]])
    cross = np.array([[half], [0.0], [0.45]])
    return Term(gram, cross, 1.0, np.arange(3)[:, None], np.arange(0), np.zeros((1, 3)))
