"""The rounds of early_pruning.py: rank the filters of the whole network and remove an exact number of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from scionet.budget.costs import CostModel
from scionet.masks import scores as weight_scores
from scionet.masks.gradients import LossFunctional, Pairs
from scionet.masks.keeping import keep_global, rounded_count
from scionet.masks.schedule import Schedule
from scionet.masks.weights import maskable, upcast_state
from scionet.methods import registry
from scionet.methods.calibration.calibration import read
from scionet.methods.contract import Ranker, SiteView
from scionet.methods.criteria.weight_scores import WeightRanker
from scionet.methods.problem import Problem
from scionet.network.calling import example_count
from scionet.network.network import Network
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites

LEAST = 0.05
"""Fraction of its original filters that a site always keeps, as in the authors' code."""

METHODS: Mapping[str, Ranker] = {
    "magnitude": WeightRanker("magnitude", "magnitude", weight_scores.magnitude, lambda scores: scores.norm(dim=1)),
    "loss preservation": registry.SCORES["loss_preservation"],
    "biased loss": registry.SCORES["biased_loss"],
    "GraSP, T = 200": registry.SCORES["grasp"],
    "GraSP, T = 1": WeightRanker("grasp, T = 1", "grasp", replace(weight_scores.grasp, temperature=1.0)),
    "gradient preservation": registry.SCORES["gradient_preservation"],
    "random": registry.SCORES["random"],
}
"""Scores of filters; the highest are kept. `l2` of the registry compares the filters of one site only."""


def counts(density: float, rounds: int, total: int) -> list[int]:
    """Filters left after each round: the telescoping schedule, each number from the first total."""
    return [rounded_count(share, total) for share in Schedule(rounds, "telescoping").densities(density)]


def floors(widths: Mapping[str, int]) -> dict[str, int]:
    """Filters that each site always keeps."""
    return {name: max(1, int(np.ceil(LEAST * width))) for name, width in widths.items()}


def unit_scores(
    ranker: Ranker, model: nn.Module, sites: Sites, pairs: Pairs, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The score of every unit, ``(width,)`` by site."""
    network, (inputs, _) = Network(model, sites), pairs[0]
    options = {"labels": True, "batch_size": example_count(inputs), "memory_bytes": float("inf")}
    problem = Problem(network, read(network, pairs, inputs, **options), CostModel(sites))
    ready = ranker.ready(problem)
    views = {name: SiteView(site, network, problem.calibration) for name, site in sites.items()}
    return {name: torch.from_numpy(ready.scores(view, rng)) for name, view in views.items()}


def chosen(scores: Mapping[str, Tensor], n_kept: int, least: Mapping[str, int], dense_hash: str) -> Plan:
    """Keep the `n_kept` units with the highest scores in the whole network, and at least `least` of each site."""
    raised = {name: _safe(score, least[name]) for name, score in scores.items()}
    everything = {name: torch.ones_like(score, dtype=torch.bool) for name, score in raised.items()}
    kept = {name: mask.nonzero()[:, 0].tolist() for name, mask in keep_global(raised, everything, n_kept).items()}
    choices = (Choice(name, len(scores[name]), tuple(k), (1.0,) * len(k)) for name, k in kept.items())
    return Plan(tuple(choices), method="early", dense_hash=dense_hash)


def _safe(score: Tensor, n_safe: int) -> Tensor:
    """Raise the `n_safe` highest scores above those of all other sites."""
    best = score.argsort(descending=True, stable=True)[:n_safe]
    return score.index_fill(0, best, torch.inf)


def gradient_norms(model: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Gradient norm of the mean loss, over linear and convolution weights: in eval mode, and as in training."""
    weights = {name: weight.float() for name, weight in maskable(model).items()}
    losses = (LossFunctional(model, upcast_state(model), pairs, batch_norms=batch) for batch in (False, True))
    evaluated, trained = (
        float(torch.stack([slope.square().sum() for slope in loss.gradient(weights).values()]).sum().sqrt())
        for loss in losses
    )
    return evaluated, trained
