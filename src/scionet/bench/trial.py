"""One run of an experiment, from the data to its record."""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime

import torch
from torch import nn

from scionet.bench.arms import epochs_of
from scionet.bench.contest import outcome
from scionet.bench.cuts import cut, uniform
from scionet.bench.experiment import Trial
from scionet.bench.learning import learn
from scionet.bench.ledger import Payment
from scionet.bench.material import Material
from scionet.bench.provenance import Provenance
from scionet.bench.record import RunRecord, SiteRecord
from scionet.bench.workshop import Dense, Workshop, dense, made
from scionet.budget.costs import measure
from scionet.network.running import hash_tensors
from scionet.seeds import root
from scionet.training.initialise import initialise


def run_trial(shop: Workshop, trial: Trial) -> RunRecord:
    """Do what a trial says, and write down what came out. What was done before is not done again.

    Raises:
        PruneError: If it cannot be done.
    """
    material = shop.material(trial.seed)
    whole = dense(shop, material, trial.seed)
    recipe = shop.experiment.recipe(trial.arm)
    if recipe is None:
        return cut(shop, trial, material, whole).record
    model, sites, paid, notes = _subject(shop, trial, material, whole)
    cost = measure(model, whole.example)
    own = replace(
        recipe,
        epochs=epochs_of(trial.arm, recipe.epochs, whole.note.outcome.macs / cost.macs, shop.experiment.longest),
    )

    def begin() -> nn.Module:
        copy = deepcopy(model)
        if not trial.arm.inherits and trial.stock is None:
            initialise(copy, root(trial.seed, "initialise"))
        return copy

    spec = shop.spec(trial)
    learnt = learn(
        begin,
        own,
        shop.experiment.learning_rates,
        material,
        trial.seed,
        cost.macs,
        shop.work(spec.short_id),
        shop.execution,
    )
    pruned, answers = outcome(learnt.model, cost, material.test)
    ledger = (*paid, *learnt.payments)
    return RunRecord(
        spec=spec,
        dense=whole.note.outcome,
        pruned=pruned,
        seconds=sum(payment.seconds for payment in ledger),
        sites=sites,
        dense_hash=hash_tensors(whole.model.state_dict()),
        provenance=Provenance.here(datetime.now(UTC).date().isoformat(), shop.command, torch.get_num_threads()),
        summary=trial.arm.summary if trial.contestant is None else f"{trial.contestant.summary} {trial.arm.summary}",
        notes=notes,
        ledger=ledger,
        sweep=learnt.sweep,
        answers=answers,
    )


def _subject(
    shop: Workshop, trial: Trial, material: Material, whole: Dense
) -> tuple[nn.Module, tuple[SiteRecord, ...], tuple[Payment, ...], tuple[str, ...]]:
    """The network that is trained, its widths, what it has cost so far, and what to note."""
    if trial.stock is not None:
        return made(trial.stock, trial.seed), (), (), ()
    if trial.arm.subject == "dense":
        return whole.model, (), whole.note.payments, ()
    if trial.arm.subject == "uniform":
        return uniform(trial, whole), (), (), ()
    found = cut(shop, trial, material, whole)
    return found.model, found.record.sites, found.record.ledger, found.record.notes
