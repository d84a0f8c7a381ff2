"""ThiNet and the LASSO as methods: units by what their consumers' output loses."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scionet.methods.contract import Ranker, SiteView
from scionet.selection.greedy import Selection
from scionet.selection.terms import Contributions


@dataclass(frozen=True)
class EliminationRanker(Ranker):
    """Chooses units, and a multiplier of each, from the inner products of their contributions.

    Attributes:
        choose: Takes them and the number of units to keep.
    """

    choose: Callable[[Contributions, int], Selection]

    @property
    def uses_moments(self) -> bool:
        """Always."""
        return True

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """Choose `n_units` units."""
        return self.choose(Contributions.from_terms(view.terms), n_units)
