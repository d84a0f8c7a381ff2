"""ThiNet and the LASSO as rankers: units are ranked by the error of their consumers' outputs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scionet.methods.contract import SiteView
from scionet.methods.criteria.labelled_ranker import LabelledRanker
from scionet.selection.greedy import Selection
from scionet.selection.terms import Contributions


@dataclass(frozen=True)
class EliminationRanker(LabelledRanker):
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
    def uses_moments(self) -> bool:
        """Always."""
        return True

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """Choose `n_units` units."""
        return self.choose(Contributions.from_terms(view.terms), n_units)
