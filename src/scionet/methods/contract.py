"""The interfaces `Method` and `Ranker`, which other packages can implement."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from scionet.budget.budget import Budget
from scionet.errors import InvalidSetting
from scionet.methods.calibration.calibration import Calibration
from scionet.methods.problem import Problem
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.sites import Site, Sites
from scionet.progress import Progress, silent
from scionet.selection.greedy import Selection
from scionet.selection.terms import Term
from scionet.typing import FloatArray

Repaired = Callable[[Selection, Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Maps a selection at one site, and the gates and tensors decided before, to the tensors of the resulting network. The
site's consumers are refitted if the settings say so."""


class Method(ABC):
    """A way to choose the units that a network keeps.

    Attributes:
        name: Name in plans and records.
        uses_labels: Whether the calibration examples must have labels.
        uses_data: Whether it needs calibration examples. Those that are given are read in any case.
    """

    name: str
    uses_labels: bool = False
    uses_data: bool = True

    @abstractmethod
    def select(self, problem: Problem, budget: Budget | None, seed: int, progress: Progress = silent) -> Plan:
        """Choose the units. Afterwards the network is bit for bit the same as before.

        Args:
            problem: The network, the calibration examples and the costs.
            budget: The budget; None if the method has its own stop rule.
            seed: Root of all randomness.
            progress: Called with the stage, the steps done and the steps in total.
        """

    def check(self, budgets: Sequence[Budget | None], seed: int) -> None:
        """Check the arguments before any data are read.

        Args:
            budgets: The budgets.
            seed: Root of all randomness.

        Raises:
            InvalidSetting: If the seed is not a whole number of 0 or more; a method may have further checks.
        """
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
            raise InvalidSetting(f"the seed must be a whole number of 0 or more; given {seed!r}")

    def prepared(self, problem: Problem, seed: int) -> Problem:
        """The problem as `select` uses it, such as with held-out examples; `prune` then drops the one that was given.

        Args:
            problem: The network, the calibration examples and the costs.
            seed: Root of all randomness.
        """
        return problem

    def select_each(
        self, problem: Problem, budgets: Sequence[Budget | None], seed: int, progress: Progress = silent
    ) -> list[Plan]:
        """Choose for each budget, with the same result as `select`. A method may share work between budgets."""
        return [self.select(problem, budget, seed, progress) for budget in budgets]


@dataclass(frozen=True, eq=False)
class SiteView:
    """One site, with the measurements that are available when its units are ranked.

    Attributes:
        site: The site.
        network: The dense network.
        calibration: The calibration examples.
        terms: One regression problem for each consumer; empty for rankers that do not use moments.
        gates: Gates of the sites decided before, shape ``(width,)`` each.
        tensors: Tensors refitted before, in dense shapes.
        repaired_by: Returns the tensors of the network after a selection at this site; None if no moments are known.
    """

    site: Site
    network: Network
    calibration: Calibration
    terms: Sequence[Term] = ()
    gates: Mapping[str, Tensor] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    repaired_by: Repaired | None = None

    @property
    def sites(self) -> Sites:
        """All sites of the network."""
        return self.network.sites

    def repaired(self, selection: Selection) -> Mapping[str, Tensor]:
        """Tensors of the network with this selection."""
        assert self.repaired_by is not None, "only rankers that use moments ask"
        return self.repaired_by(selection, self.gates, self.tensors)


class Ranker(ABC):
    """Orders the units of a site: the part in which methods differ.

    A new method only has to implement a ranker. Budget, widths, refit, repair and records are shared.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in plans and records."""

    @property
    def described(self) -> Mapping[str, Any]:
        """Its settings as JSON, for plans and records."""
        return {"name": self.name}

    @property
    def uses_moments(self) -> bool:
        """Whether it needs `SiteView.terms`."""
        return False

    @property
    def uses_labels(self) -> bool:
        """Whether the calibration examples must have labels."""
        return False

    @property
    def uses_data(self) -> bool:
        """Whether it needs calibration examples."""
        return self.uses_moments or self.uses_labels

    @property
    def evaluates(self) -> bool:
        """Whether every candidate is evaluated in the whole network, so that full paths are expensive."""
        return False

    @property
    def nested(self) -> bool:
        """Whether every smaller selection is the beginning of each larger one. One path then gives all widths."""
        return False

    @property
    def why_fewer(self) -> str:
        """Why `rank` picked fewer units than it might, for the status of a plan."""
        return "line search gives weight to no more units; a refit (repair=['refit']) makes use of every unit"

    @property
    def passes(self) -> int:
        """Walks through the network."""
        return 1

    @property
    def tolerance(self) -> float | None:
        """The stop rule that replaces a budget, if there is one."""
        return None

    def ready(self, problem: Problem) -> "Ranker":
        """Return the ranker for the walk: this one, or a copy with measurements of all sites.

        Args:
            problem: The network and the calibration examples.
        """
        return self

    def scores(self, view: SiteView, rng: np.random.Generator) -> FloatArray:
        """Return scores that can be compared between sites, ``(width,)``, in the same order as `rank` with this `rng`.

        Raises:
            InvalidSetting: If the ranker has no such score.
        """
        raise InvalidSetting(
            f"widths 'isomorphic' and 'global' and depth 'branch_scores' compare units of different sites by a score, "
            f"which method {self.name!r} does not have; choose a score, such as 'l1' or 'taylor', or others of these"
        )

    @abstractmethod
    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """Pick units until `n_units` different ones are kept."""
