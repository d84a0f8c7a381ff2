"""Networks that shrink while they are trained. What that costs counts as selection."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn

from scionet.bench.experiment.parts import Trial
from scionet.bench.experiment.shrink_competitors import ShrinkCompetitor
from scionet.bench.records.ledger import PASSES, Payment
from scionet.bench.records.record import SiteRecord
from scionet.bench.runs.data import RunData
from scionet.bench.runs.learning import StepTimer
from scionet.bench.runs.workspace import Dense, Workspace
from scionet.choices.settings import keywords_from
from scionet.shrinking import shrink
from scionet.training.recipes import Recipe


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A network that shrank while it was trained.

    Attributes:
        model: The cut network.
        sites: Its widths.
        payment: What the shrinking cost.
        trace: What the method noted after each epoch.
        note: The status of the run.
    """

    model: nn.Module
    sites: tuple[SiteRecord, ...]
    payment: Payment
    trace: tuple[Mapping[str, Any], ...]
    note: str


def shrunk(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> Shrunk:
    """Shrink the dense network by the recipe for shrinking. An interrupted run is resumed.

    Raises:
        PruneError: If it cannot shrink so, or the training fails.
    """
    competitor, recipe = competitor_of(trial), recipe_of(workspace)
    timer = StepTimer()
    settings = keywords_from(workspace.experiment.settings)
    result = shrink(
        deepcopy(whole.model),
        material.training(recipe),
        trial.budget,
        method=competitor.choice,
        recipe=recipe,
        example_inputs=whole.example,
        validation=material.validation,
        widths=competitor.division,
        towards=competitor.ranking,
        state_file=workspace.work(workspace.spec(trial).short_id) / "shrinking.safetensors",
        callbacks=(timer,),
        execution=workspace.execution,
        seed=trial.seed,
        progress=False,
        **{name: settings[name] for name in ("limits", "resources") if name in settings},
    )
    if result.training is None:
        raise AssertionError("shrink has trained")
    images = result.training.history[-1].step * recipe.batch_size
    payment = Payment("selection", images, PASSES * whole.note.outcome.macs * images, timer.seconds)
    left = result.plan.widths
    sites = tuple(SiteRecord(name, site.width, left[name]) for name, site in result.sites.items() if name in left)
    return Shrunk(result.model, sites, payment, result.trace, result.report.status)


def competitor_of(trial: Trial) -> ShrinkCompetitor:
    """The method of a trial."""
    if not isinstance(trial.competitor, ShrinkCompetitor):
        raise AssertionError("a trial that shrinks a network has such a competitor")
    return trial.competitor


def recipe_of(workspace: Workspace) -> Recipe:
    """The recipe for shrinking."""
    recipe = workspace.experiment.shrinking
    if recipe is None:
        raise AssertionError("an experiment has the recipes of its arms")
    return recipe
