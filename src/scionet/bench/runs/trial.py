"""Does one run of an experiment, from the data to the record."""

from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch
from torch import nn

from scionet.bench.experiment.arms import epochs_of
from scionet.bench.experiment.competitors import outcome
from scionet.bench.experiment.parts import Trial
from scionet.bench.records.ledger import Payment
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import RunRecord, SiteRecord
from scionet.bench.runs.cuts import cut, guided, uniform
from scionet.bench.runs.data import RunData
from scionet.bench.runs.learning import Learnt, Trainer, learn
from scionet.bench.runs.speed import latencies
from scionet.bench.runs.tickets import draw
from scionet.bench.runs.workspace import Dense, Workspace, dense, made
from scionet.budget.costs import Cost, measure
from scionet.files.safetensors_files import hash_tensors
from scionet.seeds import root
from scionet.training.initialise import initialise

_ZEROS = (
    "Single weights that are held at zero count as removed parameters; dense kernels do as many operations as before, "
    "so no MACs are saved."
)


@dataclass(frozen=True, eq=False)
class _Made:
    """A trained network, its cost, and the payments for what came before its training."""

    learnt: Learnt
    cost: Cost
    sites: tuple[SiteRecord, ...] = ()
    paid: tuple[Payment, ...] = ()
    notes: tuple[str, ...] = ()


def run_trial(workspace: Workspace, trial: Trial) -> RunRecord:
    """Do a trial and return its record. Networks and trainings that are already there are not made again.

    Raises:
        PruneError: If the trial cannot be done.
    """
    material = workspace.material(trial.seed)
    whole = dense(workspace, material, trial.seed)
    if trial.arm.training == "none":
        return cut(workspace, trial, material, whole).record
    found = (_masked if trial.arm.masked else _shrunk)(workspace, trial, material, whole)
    pruned, answers = outcome(found.learnt.model, found.cost, material.test)
    ledger = (*found.paid, *found.learnt.payments)
    record = RunRecord(
        spec=workspace.spec(trial),
        dense=whole.note.outcome,
        pruned=pruned,
        seconds=sum(payment.seconds for payment in ledger),
        sites=found.sites,
        dense_hash=hash_tensors(whole.model.state_dict()),
        provenance=Provenance.here(datetime.now(UTC).date().isoformat(), workspace.command, torch.get_num_threads()),
        summary=trial.arm.summary if trial.competitor is None else f"{trial.competitor.summary} {trial.arm.summary}",
        notes=found.notes,
        ledger=ledger,
        sweep=found.learnt.sweep,
        answers=answers,
    )
    if trial.arm.masked:
        return record
    return record.timed(*latencies(workspace, material, whole.model, found.learnt.model))


def _masked(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> _Made:
    """The dense network with single weights held at zero. Its number of operations does not change."""
    ticket = draw(workspace, trial, material, whole)
    before = whole.note.outcome
    paid = whole.note.payments if trial.arm.training == "finetuning" else ()
    return _Made(ticket.learnt, Cost(before.macs, before.params - ticket.removed), paid=paid, notes=(_ZEROS,))


def _shrunk(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> _Made:
    """A smaller network, or the dense one, trained by the recipe of the arm."""
    model, sites, paid, notes = _subject(workspace, trial, material, whole)
    cost = measure(model, whole.example)
    recipe, experiment = workspace.experiment.recipe(trial.arm), workspace.experiment
    epochs = epochs_of(trial.arm, recipe.epochs, whole.note.outcome.macs / cost.macs, experiment.longest)

    def begin() -> nn.Module:
        copy = deepcopy(model)
        if trial.arm.weights == "new" and trial.stock is None:
            initialise(copy, root(trial.seed, "initialise"))
        return copy

    trainer = Trainer(material, cost.macs, workspace.execution)
    folder = workspace.work(workspace.spec(trial).short_id)
    own = replace(recipe, epochs=epochs)
    return _Made(learn(begin, own, experiment.learning_rates, trainer, trial.seed, folder), cost, sites, paid, notes)


def _subject(
    workspace: Workspace, trial: Trial, material: RunData, whole: Dense
) -> tuple[nn.Module, tuple[SiteRecord, ...], tuple[Payment, ...], tuple[str, ...]]:
    """The network to train, its widths, the payments so far, and notes for the record."""
    if trial.stock is not None:
        return made(trial.stock, trial.seed), (), (), ()
    if trial.arm.subject == "dense":
        return whole.model, (), whole.note.payments, ()
    if trial.arm.subject == "uniform":
        return uniform(trial, whole), (), (), ()
    found = cut(workspace, trial, material, whole)
    if trial.arm.subject == "guided":
        return *guided(workspace, trial, found, whole), found.record.ledger, found.record.notes
    return found.model, found.record.sites, found.record.ledger, found.record.notes
