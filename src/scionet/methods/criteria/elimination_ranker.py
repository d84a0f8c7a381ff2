"""ThiNet and the LASSO as rankers: units are ranked by the error of their consumers' outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scionet.methods.contract import Ranker, SiteView
from scionet.selection.greedy import Selection
from scionet.selection.terms import Contributions


@dataclass(frozen=True)
class EliminationRanker(Ranker):
    """Chooses units, and a multiplier of each, from the inner products of their contributions.

    Attributes:
        label: Name of the method.
        choose: Function of these products and the number of units to keep.
        n_passes: Walks through the network.
    """

    label: str
    choose: Callable[[Contributions, int], Selection]
    n_passes: int = 1

    @property
    def name(self) -> str:
        """Name in plans and records."""
        return self.label

    @property
    def described(self) -> Mapping[str, Any]:
        """Name and passes."""
        return {"name": self.name, "passes": self.n_passes}

    @property
    def passes(self) -> int:
        """Walks through the network."""
        return self.n_passes

    @property
    def uses_moments(self) -> bool:
        """Always."""
        return True

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """Choose `n_units` units."""
        return self.choose(Contributions.from_terms(view.terms), n_units)
