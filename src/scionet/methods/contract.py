"""What a method is, and what a ranker is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from scionet.budget.limits import Budget
from scionet.network.plan import Plan
from scionet.network.sites import Site, Sites
from scionet.selection.greedy import Selection
from scionet.selection.terms import Term

Progress = Callable[[str, int, int], None]
"""Told what goes on: stage, steps done, steps in all."""

Repair = Callable[[Selection, Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, Tensor]]
"""From a choice of one site's units, and the gates and tensors decided before, to the tensors of the network that has
them, with the site's consumers refitted if they are to be."""

Draw = Callable[..., np.random.Generator]
"""A generator for each purpose, named by texts and whole numbers, so that none depends on what others drew."""


def seeded(seed: int) -> Draw:
    """Generators that derive from one seed."""
    return lambda *axes: np.random.default_rng([seed, *(b for axis in axes for b in f"{axis}/".encode())])


def silent(stage: str, done: int, total: int) -> None:
    """A `Progress` that tells nobody."""


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
        """


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

    @abstractmethod
    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """Take units until `n_units` different ones are kept."""
