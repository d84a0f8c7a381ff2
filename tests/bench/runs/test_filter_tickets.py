"""Tickets of whole units: what a method kept, with the weights of an early step of the dense training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.bench_trials import TOML, make_workspace
from torch import nn

from scionet.bench.records.ledger import total
from scionet.bench.records.record import RunRecord, encode_answers
from scionet.bench.records.store import load_all
from scionet.bench.runs.grid import run
from scionet.bench.runs.workspace import Workspace, dense, made
from scionet.network.checkpoints.checkpoint import read_plan
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut
from scionet.training.accuracy import correct_predictions
from scionet.training.fit import fit
from scionet.training.recipes import Recipe

TEXT = (
    TOML.replace('["as cut", "fine-tuned", "scratch-b"]', '["as cut", "filter ticket", "late filter ticket"]')
    .replace("seeds = [0, 1]", "seeds = [0]")
    .replace('competitors = ["l1", "random"]', 'competitors = ["l1", "forward average"]')
    .replace("epochs = 1", "epochs = 2")
)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("filters"), TEXT)
    assert {each.state for each in run(workspace, backend="sequential", threads=1)} == {"done"}
    return workspace


def record_of(workspace: Workspace, method: str) -> RunRecord:
    return next(record for record in load_all(workspace.records) if record.spec.method == method)


def plan_of(workspace: Workspace, who: str) -> Plan:
    folder: Path = workspace.out / "cuts"
    file = next(p for p in folder.glob("*.safetensors") if p.name.startswith(f"digits-cnn_{who.replace(' ', '-')}_"))
    return read_plan(file)


def units_of(network: nn.Module, workspace: Workspace, who: str) -> tuple[nn.Module, Plan, Sites]:
    """A network of the kept units with the weights that it has in `network`, whatever the plan's own weights."""
    sites = discover(network.eval(), torch.zeros(2, 1, 8, 8))
    plan = plan_of(workspace, who)
    choices = tuple(replace(choice, weights=(1.0,) * len(choice.kept)) for choice in plan.choices)
    plan = replace(plan, choices=choices).rebased(sites)
    return cut(network, plan, sites), plan, sites


def answers(workspace: Workspace, model: nn.Module) -> str:
    return encode_answers(correct_predictions(model.eval(), workspace.material(0).test, False).numpy())


def rates(workspace: Workspace) -> list[Recipe]:
    recipe = workspace.experiment.pretraining
    assert recipe is not None
    return [replace(recipe, learning_rate=factor * recipe.learning_rate) for factor in (0.5, 1.0)]


@pytest.mark.parametrize("who", ["l1", pytest.param("forward average", marks=pytest.mark.slow)])
def test_a_filter_ticket_has_the_initial_weights_of_its_units(done: Workspace, who: str) -> None:
    record, material = record_of(done, f"{who} + filter ticket"), done.material(0)
    found = []
    for recipe in rates(done):
        model, _, _ = units_of(made(done.experiment.network, 0), done, who)
        fit(model, material.training(recipe), recipe, validation=material.validation)
        found.append(answers(done, model))
    best = max((0, 1), key=lambda place: (record.sweep[place].correct, -place))
    assert record.answers == found[best]
    first = made(done.experiment.network, 0).get_parameter("conv1.weight")
    model, plan, _ = units_of(made(done.experiment.network, 0), done, who)
    kept = plan.kept.get("conv1", tuple(range(16)))
    assert torch.equal(model.get_parameter("conv1.weight"), first[list(kept)])


def test_a_late_filter_ticket_goes_on_from_an_early_epoch_with_its_momentum(done: Workspace) -> None:
    record, material = record_of(done, "l1 + late filter ticket"), done.material(0)
    found = []
    for recipe in rates(done):
        data, network = material.training(recipe), made(done.experiment.network, 0)
        state = fit(network, data, recipe, validation=material.validation, until=1).state
        model, plan, sites = units_of(network, done, "l1")
        names = {name: tensor.shape for name, tensor in model.named_parameters()}
        memory = {}
        for name, kept in state.memory.items():
            memory[name] = {key: value.clone() for key, value in kept.items()}
            for site_name, units in plan.kept.items():
                for slot in (slot for slot in sites[site_name].slots if slot.tensor == name):
                    entries = torch.from_numpy(slot.index[list(units)].flatten())
                    sliced = {k: v.index_select(slot.dim, entries) for k, v in memory[name].items() if v.ndim}
                    memory[name] |= sliced
            assert all(value.shape == names[name] for value in memory[name].values() if value.ndim)
        small = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        start = replace(state.with_new_callbacks(), network=small, memory=memory)
        fit(model, data, recipe, validation=material.validation, start=start)
        found.append(answers(done, model))
    best = max((0, 1), key=lambda place: (record.sweep[place].correct, -place))
    assert record.answers == found[best]


def test_costs_are_those_of_the_small_network_and_of_what_came_before(done: Workspace) -> None:
    plain, ticket = record_of(done, "l1"), record_of(done, "l1 + filter ticket")
    late = record_of(done, "l1 + late filter ticket")
    assert plain.pruned.macs == ticket.pruned.macs == late.pruned.macs <= 0.6 * plain.dense.macs
    assert plain.sites == ticket.sites == late.sites
    for record, epochs in ((ticket, 2), (late, 1)):
        training = next(payment for payment in record.ledger if payment.stage == "training")
        assert training.images == 192 * epochs
        assert training.macs == 3 * record.pruned.macs * training.images
        assert total(record.ledger, "selection")[2] == total(plain.ledger, "selection")[2]
    dense_images = total(plain.ledger, "dense training")[0]
    assert total(ticket.ledger, "dense training")[0] == dense_images
    # The first epoch at half the rate, with its validation, is no part of the dense network's training.
    extra = total(late.ledger, "dense training")[0] + total(late.ledger, "tuning")[0] - dense_images
    assert extra == (192 + 100) + 192


def test_the_epoch_belongs_to_the_specification_of_late_tickets_only(done: Workspace) -> None:
    other = replace(done.experiment, tickets=replace(done.experiment.tickets, rewind_epoch=1, round_density=0.3))
    for trial in done.experiment.trials():
        settings = done.experiment.spec(trial, "x").settings
        assert settings.get("rewind_epoch") == (1 if trial.arm.name == "late filter ticket" else None)
        assert other.spec(trial, "x") == done.experiment.spec(trial, "x")


def test_the_dense_network_is_left_as_it_was(done: Workspace) -> None:
    assert dense(done, done.material(0), 0).note.outcome == record_of(done, "l1").dense
