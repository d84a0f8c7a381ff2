"""Greedy forward selection over a whole network: start empty, add the unit that helps most.

Sources: Ye et al., *Good Subnetworks Provably Exist: Pruning via Greedy Forward Selection*, ICML 2020 (average, task
loss); Ye et al., *Greedy Optimization Provably Wins the Lottery*, NeurIPS 2020 (line search, local imitation).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scionet.methods.contract import Ranker, SiteView
from scionet.methods.greedy.network_objective import Scoring
from scionet.methods.greedy.output_imitation import OutputImitation, output_term
from scionet.methods.greedy.task_loss import TaskLossObjective
from scionet.methods.widths.sensitivity import OutputDistance
from scionet.selection.distributed import distributed
from scionet.selection.greedy import Selection, Status, greedy
from scionet.selection.guarantees import certified_share
from scionet.selection.objective import Objective
from scionet.selection.policies import EXACT, Policy, Stochastic
from scionet.selection.quadratic import Average, LeastSquares, LineSearch
from scionet.selection.terms import Term
from scionet.settings import ForwardSettings, MetricName

_IMITATIONS = {"least_squares": LeastSquares, "line_search": LineSearch, "average": Average}


@dataclass(frozen=True)
class ForwardRanker(Ranker):
    """Greedy forward selection at one site."""

    settings: ForwardSettings

    @property
    def uses_moments(self) -> bool:
        """Whether consumers are imitated."""
        return self.settings.objective != "loss" and self.settings.imitation != "global"

    @property
    def uses_labels(self) -> bool:
        """Whether the objective is the task loss."""
        return self.settings.objective == "loss"

    @property
    def evaluates(self) -> bool:
        """Whether candidates are scored by the whole network, one by one or by a gradient at each pick."""
        return self.settings.looks in ("exact", "taylor")

    @property
    def nested(self) -> bool:
        """Whether one set function decides, and all candidates are looked at, in one round, uncertified."""
        return (
            self.settings.objective == "least_squares"
            and self.settings.imitation != "better"
            and self.settings.candidates == "exact"
            and self.settings.partitions == 1
            and not self.settings.certify
        )

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """Pick until `n_units` different units are kept, or the stop rule holds."""
        if self.settings.imitation != "better":
            return self._pick(self._objective(view), n_units, rng)
        local = self._pick(self._imitation(view.terms), n_units, rng)
        return _better(view, self.settings.metric, local, self._pick(self._objective(view), n_units, rng))

    def _pick(self, objective: Objective[Any], n_units: int, rng: np.random.Generator) -> Selection:
        if self.settings.partitions > 1:
            selection = self._in_two_rounds(objective, n_units, rng)
        else:
            selection = self._in_one_round(objective, n_units, rng)
        if self.settings.certify and isinstance(objective, LeastSquares):
            share = certified_share(objective, selection, objective.spectral_ratio())
            selection = replace(selection, certified=share)
        return _filled(selection, n_units) if self.settings.refit else selection

    def _in_one_round(self, objective: Objective[Any], n_units: int, rng: np.random.Generator) -> Selection:
        return greedy(
            objective,
            n_units,
            policy=self._policy(),
            repetition=self.settings.repetition or self.settings.objective == "line_search",
            rng=rng,
            enough=None if self.settings.tolerance is None else _within(objective, self.settings.tolerance),
        )

    def _in_two_rounds(self, objective: Objective[Any], n_units: int, rng: np.random.Generator) -> Selection:
        return distributed(
            objective,
            n_units,
            n_partitions=self.settings.partitions,
            seed=int(rng.integers(2**31)),
            policy=self._policy(),
            n_jobs=self.settings.workers,
            backend=self.settings.backend,
        ).selection

    def _policy(self) -> Policy:
        if self.settings.candidates == "exact":
            return EXACT
        return Stochastic(self.settings.epsilon, self.settings.sample_size)

    def _objective(self, view: SiteView) -> Objective[Any]:
        settings, memory_bytes = self.settings, self.settings.memory_gib * 2**30
        scoring = Scoring(settings.looks == "taylor", settings.fresh_batches, memory_bytes)
        if settings.objective == "loss":
            return TaskLossObjective(view, scoring)
        if self.evaluates:
            return OutputImitation(view, settings.metric, scoring)
        return self._imitation([output_term(view, settings.metric, memory_bytes)] if settings.looks else view.terms)

    def _imitation(self, terms: Sequence[Term]) -> Objective[Any]:
        return _IMITATIONS[self.settings.objective](terms)


def _better(view: SiteView, metric: MetricName | None, local: Selection, through: Selection) -> Selection:
    """The choice that moves the network's output less, its consumers repaired; the local one if both do the same.

    Source: Ye et al., NeurIPS 2020: of local and global imitation the better one is kept at each layer.
    """
    if (local.kept, local.weights) == (through.kept, through.weights):
        return local
    distance = OutputDistance.of(view.model, view.batches, metric)
    by_local, by_network = distance.effects([view.repaired(local), view.repaired(through)])
    return local if by_local <= by_network else through


def _within(objective: Objective[Any], tolerance: float) -> Callable[[float], bool]:
    """Stop rule of the paper: the loss exceeds that of the dense network by at most `tolerance`."""
    assert isinstance(objective, TaskLossObjective), "settings admit a tolerance for the task loss alone"
    return lambda value: -value <= objective.dense_loss + tolerance


def _filled(selection: Selection, n_units: int) -> Selection:
    """The selection with the units that line search dropped again, up to the number asked for: a refit can use them."""
    if selection.status is Status.ENOUGH or len(selection.kept) >= n_units:
        return selection
    dropped = [unit for unit in dict.fromkeys(selection.order) if unit not in selection.kept]
    weight_of = dict(zip(selection.kept, selection.weights, strict=True))
    weight_of |= dict.fromkeys(dropped[: n_units - len(selection.kept)], 1.0)
    kept = tuple(sorted(weight_of))
    return replace(selection, kept=kept, weights=tuple(weight_of[unit] for unit in kept))
