"""What a method leaves of the dense network, made once for all arms that begin with it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from scionet.bench.arms import ARMS
from scionet.bench.contest import Arena, Contestant, Run
from scionet.bench.ledger import Payment
from scionet.bench.material import Material
from scionet.bench.parts import Trial
from scionet.bench.record import RunRecord, SiteRecord, load, save
from scionet.bench.speed import latencies
from scionet.bench.workshop import Dense, Workshop, alone, made
from scionet.budget.allocate import in_proportion
from scionet.budget.costs import CostModel
from scionet.budget.patterns import Pattern
from scionet.budget.timing import stopwatch
from scionet.budget.workbench import cut_to
from scionet.errors import UnreachableBudget
from scionet.network.checkpoint import load_pruned, save_pruned
from scionet.network.discover import discover
from scionet.network.running import call, example_count, place_of, to_model, undisturbed
from scionet.pruning import prune

UNIFORM = Contestant("uniform width", "l1", {"refit": False, "allocation": "uniform"})
"""Widths that depend on no data: one density for all sites. Which units stay does not matter to new weights."""
_TIMED_RUNS = 3


@dataclass(frozen=True, eq=False)
class Cut:
    """A pruned network.

    Attributes:
        model: The network, in eval mode.
        record: The run that made it: the arm ``as cut``.
    """

    model: nn.Module
    record: RunRecord


def cut(shop: Workshop, trial: Trial, material: Material, dense: Dense) -> Cut:
    """What the trial's contestant leaves at its budget; made for all budgets of the experiment at once, if need be.

    Raises:
        PruneError: If it cannot be made.
    """
    contestant = trial.contestant
    if contestant is None:
        raise AssertionError("a trial of a pruned network has a contestant")
    trials = {b: replace(trial, arm=ARMS["as cut"], budget=b) for b in shop.experiment.budgets_of(trial.arm)}
    files = {budget: _files(shop, each) for budget, each in trials.items()}
    with alone(next(iter(files.values()))[1]):
        missing = [budget for budget, pair in files.items() if not all(path.exists() for path in pair)]
        if trial.budget in missing:
            try:
                _make(shop, contestant, [trials[b] for b in missing], material, dense)
            except UnreachableBudget:  # perhaps of another one
                _make(shop, contestant, [trials[trial.budget]], material, dense)
    record, network = files[trial.budget]
    model = load_pruned(network, made(shop.experiment.network, trial.seed))
    return Cut(model.eval(), load(record))


def uniform(trial: Trial, dense: Dense) -> nn.Module:
    """The dense architecture at one density for all sites.

    Raises:
        UnreachableBudget: If the budget cannot be met so.
    """
    found = prune(
        dense.model, budget=trial.budget, example_inputs=dense.example, method=UNIFORM.method, **UNIFORM.settings
    )
    return found.model


def guided(shop: Workshop, trial: Trial, found: Cut, dense: Dense) -> tuple[nn.Module, tuple[SiteRecord, ...]]:
    """A network in the pattern of a pruned one: its stages' densities in the same proportions, as large as may be.

    Returns:
        The network, whose weights do not matter, and its widths.

    Raises:
        InvalidSetting: If it has another number of stages.
        UnreachableBudget: If the budget, which is about this network, cannot be met so.
    """
    pattern = Pattern.of(discover(dense.model, dense.example), {s.name: s.kept for s in found.record.sites})
    other = shop.experiment.guided
    model = dense.model if other is None else made(other, trial.seed).eval()
    sites = discover(model, dense.example)
    widths = in_proportion(CostModel(sites), trial.budget, pattern.shares(sites))
    records = tuple(SiteRecord(name, sites[name].width, kept) for name, kept in widths.items())
    return cut_to(model, sites, tuple(widths.values())), records


def _files(shop: Workshop, trial: Trial) -> tuple[Path, Path]:
    """The record and the network of a cut."""
    name = shop.spec(trial).file_name
    return shop.records / name, (shop.out / "cuts" / name).with_suffix(".safetensors")


def _make(shop: Workshop, contestant: Contestant, trials: list[Trial], material: Material, dense: Dense) -> None:
    experiment, seed = shop.experiment, trials[0].seed
    arena = Arena(
        experiment.name,
        experiment.network.name,
        experiment.data.source,
        dense.model,
        dense.example,
        material.test,
        dense.note.outcome,
        shop.command,
    )
    budgets = [trial.budget for trial in trials]
    runs = arena.run_each(contestant, material.calibration, budgets, seed, **experiment.settings)
    rate = _macs_per_second(dense, material.calibration[0][0])
    for trial, run in zip(trials, runs, strict=True):
        times = latencies(shop, material, dense.model, run.result.model)
        _write(shop, trial, replace(run, record=run.record.timed(*times)), rate, dense)


def _write(shop: Workshop, trial: Trial, run: Run, rate: float, dense: Dense) -> None:
    """The network first: where a record is, there is its network."""
    record_file, network = _files(shop, trial)
    seconds = run.record.seconds
    selection = Payment("selection", shop.experiment.data.calibration, seconds * rate, seconds)
    record = replace(
        run.record,
        spec=shop.spec(trial),
        ledger=(*dense.note.payments, selection),
        summary=f"{run.record.summary} {trial.arm.summary}",
    )
    save_pruned(network, run.result.model, run.result.plan, run.result.sites, overwrite=True)
    save(record, record_file.parent)


def _macs_per_second(dense: Dense, batch: Any) -> float:
    """At which rate the dense network computes forward passes, here and now."""
    time_ms = stopwatch(place_of(dense.model)[0])
    with undisturbed(dense.model):
        moved = to_model(batch, dense.model)
        best = min(time_ms(lambda: call(dense.model, moved)) for _ in range(_TIMED_RUNS))
    return dense.note.outcome.macs * example_count(batch) / (best / 1e3)
