"""Greedy forward selection over a whole network: start empty, add the unit that helps most.

Sources: Ye et al., *Good Subnetworks Provably Exist: Pruning via Greedy Forward Selection*, ICML 2020 (average, task
loss); Ye et al., *Greedy Optimization Provably Wins the Lottery*, NeurIPS 2020 (line search, local imitation).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from scionet.choices.checking import chosen, described
from scionet.choices.methods import (
    CANDIDATES,
    OBJECTIVES,
    Forward,
    LeastSquares,
    LineSearch,
    Objective,
    OutputImitation,
    Stochastic,
    TargetName,
    TaskLoss,
)
from scionet.choices.settings import Settings
from scionet.methods.contract import Ranker, SiteView
from scionet.methods.greedy.network_objective import Scoring
from scionet.methods.greedy.output_imitation import OutputObjective, output_term
from scionet.methods.greedy.task_loss import TaskLossObjective
from scionet.methods.widths.output_distance import OutputDistance
from scionet.selection import quadratic
from scionet.selection.distributed import distributed
from scionet.selection.greedy import Selection, Status, greedy
from scionet.selection.guarantees import certified_share
from scionet.selection.objective import Objective as SetObjective
from scionet.selection.policies import EXACT, Policy, StochasticPolicy
from scionet.selection.terms import Term


@dataclass(frozen=True)
class ForwardRanker(Ranker):
    """Greedy forward selection at one site.

    Attributes:
        forward: What is chosen, and how.
        settings: Whether consumers are refitted, how outputs are compared, and limits on resources.
    """

    forward: Forward
    settings: Settings

    @property
    def name(self) -> str:
        """Name in plans and records."""
        return "forward"

    @property
    def described(self) -> Mapping[str, Any]:
        """All settings, with the names resolved."""
        return described(replace(self.forward, objective=self.objective, candidates=self._candidates))

    @cached_property
    def objective(self) -> Objective:
        """The objective that each picked unit improves most."""
        return chosen(self.forward.objective, OBJECTIVES, "objective")

    @cached_property
    def _candidates(self) -> Any:
        return chosen(self.forward.candidates, CANDIDATES, "candidates")

    @property
    def _target(self) -> TargetName:
        """The target of imitation."""
        if isinstance(self.objective, OutputImitation):
            return "better" if self.objective.keep_better else "output"
        return "consumer" if isinstance(self.objective, TaskLoss) else self.objective.target

    @property
    def uses_moments(self) -> bool:
        """Whether consumers are imitated."""
        return not self.uses_labels and self._target != "output"

    @property
    def uses_labels(self) -> bool:
        """Whether the objective is the task loss."""
        return isinstance(self.objective, TaskLoss)

    @property
    def uses_data(self) -> bool:
        """Always."""
        return True

    @property
    def evaluates(self) -> bool:
        """Whether candidates are scored by the whole network, one by one or by a gradient at each pick."""
        return isinstance(self.objective, TaskLoss | OutputImitation)

    @property
    def nested(self) -> bool:
        """Whether one set function decides, and all candidates are evaluated, in one round, uncertified."""
        objective = self.objective
        return (
            isinstance(objective, LeastSquares)
            and objective.target != "better"
            and objective.partitions == 1
            and not objective.certify
            and not isinstance(self._candidates, Stochastic)
        )

    @property
    def passes(self) -> int:
        """Walks through the network."""
        return self.forward.passes

    @property
    def tolerance(self) -> float | None:
        """The stop rule of the task loss."""
        return self.objective.tolerance if isinstance(self.objective, TaskLoss) else None

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """Pick until `n_units` different units are kept, or the stop rule holds."""
        if self._target != "better":
            return self._pick(self._set_objective(view), n_units, rng)
        local = self._pick(self._imitation(view.terms), n_units, rng)
        return _better(view, self.settings, local, self._pick(self._set_objective(view), n_units, rng))

    def _pick(self, objective: SetObjective[Any], n_units: int, rng: np.random.Generator) -> Selection:
        chosen_objective = self.objective
        if isinstance(chosen_objective, LeastSquares) and chosen_objective.partitions > 1:
            selection = self._in_two_rounds(objective, chosen_objective.partitions, n_units, rng)
        else:
            enough = None if self.tolerance is None else _within(objective, self.tolerance)
            repetition = isinstance(chosen_objective, LineSearch) or getattr(chosen_objective, "repetition", False)
            selection = greedy(objective, n_units, policy=self._policy(), repetition=repetition, rng=rng, enough=enough)
        if isinstance(objective, quadratic.LeastSquaresObjective) and getattr(chosen_objective, "certify", False):
            share = certified_share(objective, selection, objective.spectral_ratio())
            selection = replace(selection, certified=share)
        return selection if self.settings.refit is None else _filled(selection, n_units)

    def _in_two_rounds(
        self, objective: SetObjective[Any], partitions: int, n_units: int, rng: np.random.Generator
    ) -> Selection:
        resources = self.settings.resources
        return distributed(
            objective,
            n_units,
            partitions=partitions,
            seed=int(rng.integers(2**31)),
            policy=self._policy(),
            workers=resources.workers,
            backend=resources.backend,
        ).selection

    def _policy(self) -> Policy:
        candidates = self._candidates
        if isinstance(candidates, Stochastic):
            return StochasticPolicy(candidates.epsilon, candidates.sample_size)
        return EXACT

    def _set_objective(self, view: SiteView) -> SetObjective[Any]:
        objective, outputs = self.objective, self.settings.outputs
        memory_bytes = self.settings.resources.memory_bytes
        if isinstance(objective, TaskLoss):
            return TaskLossObjective(
                view, Scoring(objective.scoring == "taylor", objective.fresh_batches, memory_bytes)
            )
        if isinstance(objective, OutputImitation):
            scoring = Scoring(objective.scoring == "taylor", objective.fresh_batches, memory_bytes)
            return OutputObjective(view, outputs, scoring)
        if objective.target == "consumer":
            return self._imitation(view.terms)
        return self._imitation([output_term(view, outputs, memory_bytes)])

    def _imitation(self, terms: Sequence[Term]) -> SetObjective[Any]:
        if isinstance(self.objective, LeastSquares):
            return quadratic.LeastSquaresObjective(terms)
        return (
            quadratic.LineSearchObjective(terms)
            if isinstance(self.objective, LineSearch)
            else quadratic.AverageObjective(terms)
        )


def _better(view: SiteView, settings: Settings, local: Selection, through: Selection) -> Selection:
    """Return the selection that moves the network's output less after the refit; the local one if both are equal.

    Source: Ye et al., NeurIPS 2020: of local and global imitation the better one is kept at each layer.
    """
    if (local.kept, local.weights) == (through.kept, through.weights):
        return local
    distance = OutputDistance.on(view.network, view.calibration.inputs, settings.outputs)
    by_local, by_network = distance.of_each([view.repaired(local), view.repaired(through)])
    return local if by_local <= by_network else through


def _within(objective: SetObjective[Any], tolerance: float) -> Callable[[float], bool]:
    """Stop rule of the paper: the loss exceeds that of the dense network by at most `tolerance`."""
    assert isinstance(objective, TaskLossObjective), "only the task loss has a tolerance"
    return lambda value: -value <= objective.dense_loss + tolerance


def _filled(selection: Selection, n_units: int) -> Selection:
    """Fill a selection up to `n_units` with units that line search dropped, because a refit can use them."""
    if selection.status is Status.ENOUGH or len(selection.kept) >= n_units:
        return selection
    dropped = [unit for unit in dict.fromkeys(selection.order) if unit not in selection.kept]
    weight_of = dict(zip(selection.kept, selection.weights, strict=True))
    weight_of |= dict.fromkeys(dropped[: n_units - len(selection.kept)], 1.0)
    kept = tuple(sorted(weight_of))
    return replace(selection, kept=kept, weights=tuple(weight_of[unit] for unit in kept))
