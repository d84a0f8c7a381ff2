"""What a method is, and what a ranker is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting
from scionet.network.plan import Plan
from scionet.network.sites import Site, Sites
from scionet.progress import Progress, silent
from scionet.selection.greedy import Selection
from scionet.selection.objective import FloatArray
from scionet.selection.terms import Term

Repair = Callable[[Selection, Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, Tensor]]
"""From a choice of one site's units, and the gates and tensors decided before, to the tensors of the network that has
them, with the site's consumers refitted if they are to be."""


class Method(ABC):
    """A way to choose what stays of a network.

    Attributes:
        name: Registry name.
        uses_labels: Whether batches must be pairs of inputs and labels.
    """

    name: str
    uses_labels: bool = False

    @abstractmethod
    def select(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        sites: Sites,
        budget: Budget | None,
        seed: int,
        progress: Progress = silent,
        costs: CostModel | None = None,
    ) -> Plan:
        """Choose. Pure: `model` comes back bit for bit as it was.

        Args:
            model: The dense network.
            batches: Calibration data, iterated anew for each pass. Each batch is what `model` is called on; with an
                objective that needs labels, a pair of that and the labels.
            sites: The network's sites.
            budget: What may remain; None where the method has a stop rule of its own.
            seed: Root of all randomness.
            progress: Is told what goes on.
            costs: What widths cost; without it MACs and parameters are known, and latency is not.
        """

    def select_each(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        sites: Sites,
        budgets: Sequence[Budget | None],
        seed: int,
        progress: Progress = silent,
        costs: CostModel | None = None,
    ) -> list[Plan]:
        """One plan for each budget, the same as `select` gives; a method may share work between them."""
        return [self.select(model, batches, sites, budget, seed, progress, costs) for budget in budgets]


@dataclass(frozen=True, eq=False)
class SiteView:
    """One site and what is known when its units are ranked.

    Attributes:
        site: The site.
        sites: All sites.
        model: The dense network.
        terms: One for each consumer; empty for rankers that use no moments and where nothing is fitted.
        gates: Gates of the sites decided before, shape ``(width,)`` each.
        tensors: Tensors refitted before, in dense shapes.
        batches: Calibration data.
        repair: What a choice of the site's units makes of the network; None for rankers that use no moments.
    """

    site: Site
    sites: Sites
    model: nn.Module
    terms: Sequence[Term]
    gates: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    batches: Iterable[Any]
    repair: Repair | None = None

    def repaired(self, selection: Selection) -> Mapping[str, Tensor]:
        """Tensors of the network as it would be with this choice."""
        assert self.repair is not None, "asked for by rankers that use moments alone"
        return self.repair(selection, self.gates, self.tensors)


class Ranker(ABC):
    """The order in which a site's units are taken: what tells methods apart."""

    @property
    def uses_moments(self) -> bool:
        """Whether `SiteView.terms` must be there."""
        return False

    @property
    def uses_labels(self) -> bool:
        """Whether batches are pairs of inputs and labels."""
        return False

    @property
    def evaluates(self) -> bool:
        """Whether every candidate is run through the network, so that full paths are dear."""
        return False

    @property
    def nested(self) -> bool:
        """Whether each selection is the beginning of every larger one, so that one path serves all widths."""
        return False

    def ready(self, model: nn.Module, sites: Sites, batches: Iterable[Any]) -> "Ranker":
        """The ranker that walks: this one, or one that knows what is measured once for all sites of the dense network.

        Args:
            model: The dense network.
            sites: Its sites.
            batches: Calibration data, with labels if the ranker uses them; what is given back needs none.
        """
        return self

    def worth(self, view: SiteView, rng: np.random.Generator) -> FloatArray:
        """What each unit is worth beside those of other sites, ``(width,)``; the same order as `rank` with that `rng`.

        Raises:
            InvalidSetting: If units have no such score.
        """
        raise InvalidSetting(
            "allocation 'isomorphic' compares units of several sites by a score of each, which this method does not "
            "give; take a score, such as 'l1' or 'taylor', or another allocation"
        )

    @abstractmethod
    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """Take units until `n_units` different ones are kept."""
