"""Does one run of an experiment, from the data to the record."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from scionet.bench.experiment.arms import TWIN, epochs_of
from scionet.bench.experiment.parts import Trial
from scionet.bench.records.ledger import Payment
from scionet.bench.records.mask_record import MaskRecord
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import RunRecord, SiteRecord
from scionet.bench.runs.competitor_runs import outcome
from scionet.bench.runs.cuts import cut, guided, uniform
from scionet.bench.runs.data import RunData
from scionet.bench.runs.filter_tickets import filter_ticket
from scionet.bench.runs.learning import Learnt, Trainer, learn
from scionet.bench.runs.scored_masks import masked
from scionet.bench.runs.shrinking import competitor_of, recipe_of, shrunk
from scionet.bench.runs.speed import latencies
from scionet.bench.runs.tickets import draw
from scionet.bench.runs.workspace import Dense, Workspace, dense, made
from scionet.budget.costs import Cost, measure
from scionet.files.safetensors_files import hash_tensors
from scionet.masks.masked_costs import masked_macs
from scionet.masks.weight_masks import WeightMasks
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
    masks: MaskRecord | None = None
    trace: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class _Subject:
    """The network that an arm trains: its widths, the payments so far, notes for the record, and a method's trace."""

    model: nn.Module
    sites: tuple[SiteRecord, ...] = ()
    paid: tuple[Payment, ...] = ()
    notes: tuple[str, ...] = ()
    trace: tuple[Mapping[str, Any], ...] = ()


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
        masks=found.masks,
        trace=tuple(dict(row) for row in found.trace),
    )
    if trial.arm.masked:
        return record
    return record.timed(*latencies(workspace, material, whole.model, found.learnt.model))


def _masked(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> _Made:
    """The dense network with single weights held at zero. Its number of operations does not change."""
    found = (masked if trial.arm.scored else draw)(workspace, trial, material, whole)
    record, before = _record(found.masks, whole), whole.note.outcome
    cost = Cost(before.macs, before.params - (record.size - record.kept))
    return _Made(found.learnt, cost, paid=found.paid, notes=(_ZEROS,), masks=record)


def _record(masks: WeightMasks, whole: Dense) -> MaskRecord:
    layers = {name: (int(mask.count_nonzero()), mask.numel()) for name, mask in masks.items()}
    return MaskRecord(layers, masked_macs(whole.model, masks, whole.example))


def _shrunk(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> _Made:
    """A smaller network, or the dense one, trained by the recipe of the arm."""
    if trial.arm.subject == "pruned" and trial.arm.weights in ("first", "early"):
        return _ticket(workspace, trial, material, whole)
    subject = _subject(workspace, trial, material, whole)
    cost = measure(subject.model, whole.example)
    recipe, experiment = workspace.experiment.recipe(trial.arm), workspace.experiment
    epochs = epochs_of(trial.arm, recipe.epochs, whole.note.outcome.macs / cost.macs, experiment.longest)

    def begin() -> nn.Module:
        copy = deepcopy(subject.model)
        if trial.arm.weights == "new" and trial.stock is None:
            initialise(copy, root(trial.seed, "initialise"))
        return copy

    trainer = Trainer(material, cost.macs, workspace.execution)
    folder = workspace.work(workspace.spec(trial).short_id)
    if trial.arm.name == TWIN:
        epochs += recipe_of(workspace).epochs
    own = replace(recipe, epochs=epochs)
    learnt = learn(begin, own, experiment.learning_rates, trainer, trial.seed, folder)
    return _Made(learnt, cost, subject.sites, subject.paid, subject.notes, trace=subject.trace)


def _ticket(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> _Made:
    """The units of a pruned network, with weights of an early step of the dense training."""
    found = cut(workspace, trial, material, whole)
    learnt = filter_ticket(workspace, trial, found, material, whole)
    return _Made(learnt, measure(found.model, whole.example), found.record.sites, found.record.ledger)


def _subject(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> _Subject:
    """The network to train."""
    if trial.stock is not None:
        return _Subject(made(trial.stock, trial.seed))
    if trial.arm.subject == "dense":
        return _Subject(whole.model, paid=whole.note.payments)
    if trial.arm.subject == "uniform":
        return _Subject(uniform(trial, whole))
    if trial.arm.subject == "shrunk":
        result = shrunk(workspace, trial, material, whole)
        return _Subject(
            result.model, result.sites, (*whole.note.payments, result.payment), (result.note,), result.trace
        )
    if trial.arm.shrinks:
        trial = replace(trial, competitor=competitor_of(trial).twin)
    found = cut(workspace, trial, material, whole)
    if trial.arm.subject == "guided":
        return _Subject(*guided(workspace, trial, found, whole), found.record.ledger, found.record.notes)
    return _Subject(found.model, found.record.sites, found.record.ledger, found.record.notes)
