"""Pruned networks, each made once and shared by all arms that begin with it."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from scionet.bench.experiment.arms import ARMS
from scionet.bench.experiment.competitors import Competitor
from scionet.bench.experiment.parts import NetworkSource, Trial
from scionet.bench.records.ledger import Payment
from scionet.bench.records.record import RunRecord, SiteRecord, load, save
from scionet.bench.runs.competitor_runs import Comparison, CompetitorRun
from scionet.bench.runs.data import RunData
from scionet.bench.runs.speed import latencies, macs_per_second
from scionet.bench.runs.workspace import Dense, Workspace, alone, made
from scionet.budget.allocation.allocate import in_proportion
from scionet.budget.costs import CostModel
from scionet.budget.counterparts import widths_of_counterpart
from scionet.budget.patterns import Pattern
from scionet.choices.settings import keywords_from
from scionet.choices.widths import Widths
from scionet.errors import UnreachableBudget
from scionet.network.checkpoints.checkpoint import load_pruned, read_plan, save_pruned
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan
from scionet.pruning import prune

UNIFORM = Competitor("uniform width", "l1", "uniform", ())
"""One density for all sites, whatever the data. With new weights, it does not matter which units stay."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A pruned network.

    Attributes:
        model: The network, in eval mode.
        plan: The units that it kept.
        record: The run that made it: the arm ``as cut``.
    """

    model: nn.Module
    plan: Plan
    record: RunRecord


def cut(workspace: Workspace, trial: Trial, material: RunData, dense: Dense) -> Cut:
    """Return the competitor's pruned network at the trial's budget.

    If it is missing, the networks of all missing budgets of the experiment are made together.

    Raises:
        PruneError: If it cannot be made.
    """
    competitor = trial.competitor
    if not isinstance(competitor, Competitor):
        raise AssertionError("a trial of a pruned network has a competitor")
    budgets = workspace.experiment.budgets_of(trial.arm, competitor)
    trials = {budget: replace(trial, arm=ARMS["as cut"], budget=budget) for budget in budgets}
    files = {budget: _files(workspace, each) for budget, each in trials.items()}
    with alone(next(iter(files.values()))[1]):
        missing = [budget for budget, pair in files.items() if not all(path.exists() for path in pair)]
        if trial.budget in missing:
            try:
                _make(workspace, competitor, [trials[b] for b in missing], material, dense)
            except UnreachableBudget:  # perhaps another budget
                _make(workspace, competitor, [trials[trial.budget]], material, dense)
    record, network = files[trial.budget]
    model = load_pruned(network, made(workspace.experiment.network, trial.seed))
    return Cut(model.eval(), read_plan(network), load(record))


def uniform(trial: Trial, dense: Dense) -> nn.Module:
    """Return the dense architecture with one density for all sites.

    Raises:
        UnreachableBudget: If no single density meets the budget.
    """
    found = prune(dense.model, budget=trial.budget, example_inputs=dense.example, progress=False, **UNIFORM.choices)
    return found.model


def guided(workspace: Workspace, trial: Trial, found: Cut, dense: Dense) -> tuple[nn.Module, tuple[SiteRecord, ...]]:
    """Return a network in the pattern of a pruned one.

    The densities of its stages have the same proportions, and are as large as the budget allows.

    Returns:
        The network, whose weights do not matter, and its widths.

    Raises:
        InvalidSetting: If the two networks have different numbers of stages.
        UnreachableBudget: If no densities in these proportions meet the budget, which refers to this network.
    """
    pattern = Pattern.of(discover(dense.model, dense.example), found.plan.widths)
    other = workspace.experiment.guided
    model = dense.model if other is None else made(other, trial.seed).eval()
    sites = discover(model, dense.example)
    widths = Widths(in_proportion(CostModel(sites), trial.budget, pattern.shares(sites)))
    result = prune(model, example_inputs=dense.example, progress=False, **replace(UNIFORM, widths=widths).choices)
    records = tuple(SiteRecord(name, sites[name].width, kept) for name, kept in result.plan.widths.items())
    return result.model, records


def _files(workspace: Workspace, trial: Trial) -> tuple[Path, Path]:
    """The files of a cut's record and network: in the folder `cuts`, not among the records of finished runs."""
    path = workspace.out / "cuts" / workspace.spec(trial).file_name
    return path, path.with_suffix(".safetensors")


def _make(workspace: Workspace, competitor: Competitor, trials: list[Trial], material: RunData, dense: Dense) -> None:
    experiment, seed = workspace.experiment, trials[0].seed
    comparison = Comparison(
        experiment.name,
        experiment.network.name,
        experiment.data.source,
        dense.model,
        dense.example,
        material.test,
        dense.note.outcome,
        workspace.command,
    )
    if competitor.at_predefined:
        competitor = replace(competitor, widths=_predefined(workspace, seed, dense))
    budgets = [trial.budget for trial in trials]
    runs = comparison.run_each(competitor, material.calibration, budgets, seed, **keywords_from(experiment.settings))
    rate = macs_per_second(dense, material.calibration[0][0])
    for trial, run in zip(trials, runs, strict=True):
        times = latencies(workspace, material, dense.model, run.result.model)
        _write(workspace, trial, replace(run, record=run.record.timed(*times)), rate, dense)


def _predefined(workspace: Workspace, seed: int, dense: Dense) -> Widths:
    """The widths of the experiment's predefined architecture.

    Raises:
        InvalidSetting: If that is no narrower network of the same family.
    """
    given = workspace.experiment.predefined
    if given is None:
        raise AssertionError("an experiment has the widths of its competitors")
    if given.units is not None:
        return Widths(given.units)
    counterpart = made(NetworkSource(given.factory or "", given.arguments), seed)
    return widths_of_counterpart(discover(dense.model, dense.example), counterpart)


def _write(workspace: Workspace, trial: Trial, run: CompetitorRun, rate: float, dense: Dense) -> None:
    """Write the network before the record, so that a record never exists without its network."""
    record_file, network = _files(workspace, trial)
    seconds = run.record.seconds
    selection = Payment("selection", workspace.experiment.data.calibration, seconds * rate, seconds)
    record = replace(
        run.record,
        spec=workspace.spec(trial),
        ledger=(*dense.note.payments, selection),
        summary=f"{run.record.summary} {trial.arm.summary}",
    )
    save_pruned(network, run.result.model, run.result.plan, run.result.sites, overwrite=True)
    save(record, record_file.parent)
