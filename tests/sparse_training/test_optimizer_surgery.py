import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from support.subjects import SUBJECTS
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scionet.errors import TrainingError
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut
from scionet.sparse_training.optimizer_surgery import cut_optimizer_, cut_state
from scionet.training.averages import overwrite
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.fit import fit
from scionet.training.grda import GRDA
from scionet.training.optimisers import memory_of
from scionet.training.recipes import Recipe

OPTIMISERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True),
    "grda": lambda parameters: GRDA(parameters, lr=0.05, c=0.01, mu=0.6),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.001, momentum=0.9, eps=1e-4),
}
NAMES = ["residual", "branched"]


def half(sites: Sites, **options: Any) -> Plan:
    """Every other unit of every site, in two of three with weights other than 1."""
    choices = []
    for number, (name, site) in enumerate(sites.items()):
        kept = tuple(range(number % 2, site.width, 2))
        choices.append(Choice(name, site.width, kept, (1.0 + 0.25 * (number % 3),) * len(kept)))
    return Plan(tuple(choices), **options)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def batches(name: str) -> list[tuple[Tensor, Tensor]]:
    return list(SUBJECTS[name].pairs(6, 8))


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_cut_network_learns_as_the_masked_one_does(name: str, kind: str) -> None:
    """The masked network: removed units give nothing to their consumers, before and after every step."""
    model = SUBJECTS[name].network().train()
    sites = discover(model, SUBJECTS[name].example())
    optimizer = OPTIMISERS[kind](model.parameters())
    for batch in batches(name)[:3]:
        step(model, optimizer, batch)
    plan = half(sites)
    silent = replace(plan, choices=tuple(replace(c, weights=(1.0,) * len(c.kept)) for c in plan.choices))
    plan = silent if kind == "grda" else plan
    pruned, tuned = cut(model, plan, sites), copy.deepcopy(optimizer.state_dict())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    cut_optimizer_(optimizer, model, pruned, plan, sites)
    masked_optimizer = OPTIMISERS[kind](model.parameters())
    masked_optimizer.load_state_dict(tuned)
    masked_scheduler = torch.optim.lr_scheduler.StepLR(masked_optimizer, 1, 0.5)
    overwrite(model, Network(model, sites).masked_by(plan))
    for batch in batches(name)[3:]:
        step(pruned, optimizer, batch)
        step(model, masked_optimizer, batch)
        scheduler.step()
        masked_scheduler.step()
        overwrite(model, Network(model, sites).masked_by(silent))
    expected = state_of(cut(model, silent, sites))
    for key, tensor in state_of(pruned).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-9, atol=1e-11, msg=key)
    found = memory_of(optimizer, pruned)
    assert sum(t.numel() for kept in found.values() for t in kept.values()) < 0.7 * sum(
        t.numel() for kept in memory_of(masked_optimizer, model).values() for t in kept.values()
    )


def test_weights_of_a_plan_that_grda_would_undo_are_refused() -> None:
    model = SUBJECTS["residual"].network().train()
    sites = discover(model, SUBJECTS["residual"].example())
    optimizer = GRDA(model.parameters(), lr=0.05, c=0.01, mu=0.6)
    step(model, optimizer, batches("residual")[0])
    plan = half(sites)
    with pytest.raises(TrainingError, match="undo the plan's refits and weights"):
        cut_optimizer_(optimizer, model, cut(model, plan, sites), plan, sites)
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [id(p) for p in model.parameters()]


def test_memory_is_cut_by_the_indices_of_the_plan() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    sites = discover(model, torch.zeros(1, 2, 5, 5))
    assert list(sites) == ["0"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        values = torch.arange(parameter.numel(), dtype=torch.float32).view_as(parameter)
        optimizer.state[parameter] = {"momentum_buffer": values}
    before = {name: kept["momentum_buffer"].clone() for name, kept in memory_of(optimizer, model).items()}
    plan = Plan((Choice("0", 4, (1, 3), (1.0, 1.0)),))
    pruned = cut(model, plan, sites)
    cut_optimizer_(optimizer, model, pruned, plan, sites)
    after = {name: kept["momentum_buffer"] for name, kept in memory_of(optimizer, pruned).items()}
    assert torch.equal(after["0.weight"], before["0.weight"][[1, 3]])
    assert torch.equal(after["0.bias"], before["0.bias"][[1, 3]])
    assert torch.equal(after["2.weight"], before["2.weight"][:, [1, 3]])
    assert torch.equal(after["2.bias"], before["2.bias"])
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [id(p) for p in pruned.parameters()]


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_paused_training_goes_on_in_the_cut_network(optimiser: str) -> None:
    """Against the same training by hand, with an optimiser that is carried over."""
    subject = SUBJECTS["residual"]
    model = subject.network()
    sites = discover(model, subject.example())
    images, labels = (torch.cat(parts) for parts in zip(*subject.pairs(5, 8), strict=True))
    data = TensorDataset(images, labels)
    recipe = Recipe(epochs=4, batch_size=8, optimiser=optimiser, learning_rate=0.02, average_decay=0.8)  # type: ignore[arg-type]
    paused = fit(model, data, recipe, until=2)
    refit = {name: 1.5 * state_of(model)[name].detach() for name in [next(iter(sites.consumers))]}
    plan = half(sites, tensors=refit)
    pruned = cut(model, plan, sites)
    state = cut_state(paused.state, model, plan, sites)
    before = hash_tensors(state_of(model))
    result = fit(pruned, data, recipe, start=state)
    assert hash_tensors(state_of(model)) == before
    assert [epoch.number for epoch in result.history] == [1, 2, 3, 4]
    assert hash_tensors(state.network) != hash_tensors(state.average)

    dense, mean = copy.deepcopy(model), copy.deepcopy(model)
    overwrite(dense, paused.state.network)
    overwrite(mean, paused.state.average)
    by_hand, mean = cut(dense, plan, sites), cut(mean, plan, sites)
    from scionet.training.optimisers import build, load_memory  # by hand, too: indices of the plan
    from scionet.training.order import Order

    optimizer = build(dense, recipe)
    load_memory(optimizer, dense, paused.state.memory)
    cut_optimizer_(optimizer, dense, by_hand, plan, sites)
    by_hand.train()
    for number, batch in enumerate(Order(40, 8, 0).batches(10, 20), 10):
        chosen = [index for index, _ in batch]
        optimizer.param_groups[0]["lr"] = 0.02 * recipe.rate(number, 5)
        step(by_hand, optimizer, (images[chosen], labels[chosen]))
        decay = min(0.8, (2 + number) / (11 + number))
        for name, tensor in state_of(by_hand).items():
            target = state_of(mean)[name]
            target.data.copy_(decay * target + (1 - decay) * tensor if tensor.is_floating_point() else tensor)
    for name, tensor in state_of(pruned).items():
        torch.testing.assert_close(tensor, state_of(mean)[name], rtol=1e-9, atol=1e-11, msg=name)


@dataclass
class Gathering(Callback):
    """Counts steps, and keeps a tensor if told so."""

    keeps: bool = False
    steps: int = field(default=0, init=False)
    last: Tensor | None = field(default=None, init=False)

    def after_step(self, context: TrainingContext) -> None:
        self.steps += 1
        self.last = next(context.network.parameters()).detach().clone() if self.keeps else torch.tensor(self.steps)


@pytest.mark.parametrize("keeps", [False, True])
def test_callbacks_go_on_in_the_cut_network_unless_they_hold_tensors_of_the_dense_one(keeps: bool) -> None:
    subject = SUBJECTS["residual"]
    model, recipe = subject.network(), Recipe(epochs=2, batch_size=8)
    sites = discover(model, subject.example())
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*subject.pairs(5, 8), strict=True)))
    state = fit(model, data, recipe, until=1, callbacks=[Gathering(keeps)]).state
    plan = half(sites)
    if keeps:
        with pytest.raises(TrainingError, match=r"Gathering holds tensors.*state\.with_new_callbacks\(\)"):
            cut_state(state, model, plan, sites)
        state = state.with_new_callbacks()
    callback = Gathering(keeps)
    fit(cut(model, plan, sites), data, recipe, start=cut_state(state, model, plan, sites), callbacks=[callback])
    assert callback.steps == (5 if keeps else 10)


def test_an_optimiser_of_another_network_is_refused() -> None:
    model = SUBJECTS["residual"].network()
    sites = discover(model, SUBJECTS["residual"].example())
    plan = half(sites)
    pruned = cut(model, plan, sites)
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match="stale optimiser"):
        cut_optimizer_(optimizer, model, pruned, plan, sites)


def test_memory_in_other_shapes_is_refused_and_nothing_is_changed() -> None:
    model = SUBJECTS["residual"].network()
    sites = discover(model, SUBJECTS["residual"].example())
    plan = half(sites)
    pruned = cut(model, plan, sites)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = model.block1.conv1.weight  # type: ignore[union-attr]
    optimizer.state[weight] = {"row": torch.zeros(weight.shape[0])}  # type: ignore[index, union-attr]
    with pytest.raises(TrainingError, match=r"row of block1\.conv1\.weight in the shape \(12,\)"):
        cut_optimizer_(optimizer, model, pruned, plan, sites)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in model.parameters()]
    assert np.all([len(optimizer.state) == 1])


def dropping(sites: Sites) -> Plan:
    """One branch becomes a constant, and one nothing; every other unit of the sites that are left."""
    first, second, *_ = sites.branches
    inside = {*sites.branches[first].sites, *sites.branches[second].sites}
    choices = tuple(choice for choice in half(sites).choices if choice.site not in inside)
    return Plan(choices, dropped={first: torch.ones(sites.branches[first].channels), second: None})


def test_dropped_branches_that_grda_would_undo_are_refused() -> None:
    subject = SUBJECTS["residual"]
    model = subject.network().train()
    sites = discover(model, subject.example())
    optimizer = OPTIMISERS["grda"](model.parameters())
    step(model, optimizer, batches("residual")[0])
    plan = dropping(sites)
    with pytest.raises(TrainingError, match="undo the plan's refits and weights"):
        cut_optimizer_(optimizer, model, cut(model, plan, sites), plan, sites)


@pytest.mark.parametrize("kind", sorted(OPTIMISERS.keys() - {"grda"}))
def test_parameters_of_dropped_branches_leave_the_optimiser_and_constants_enter_it(kind: str) -> None:
    subject = SUBJECTS["residual"]
    model = subject.network().train()
    sites = discover(model, subject.example())
    vectors = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    optimizer = OPTIMISERS[kind]([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])
    first, second = batches("residual")[:2]
    step(model, optimizer, first)
    plan = dropping(sites)
    gone = {name for branch in plan.dropped for name in sites.branches[branch].tensors}
    before = {name: kept for name, kept in memory_of(optimizer, model).items() if name not in gone}
    pruned = cut(model, plan, sites)
    cut_optimizer_(optimizer, model, pruned, plan, sites)
    (constant,) = (sites.branches[name].constant for name, value in plan.dropped.items() if value is not None)
    after = memory_of(optimizer, pruned)
    assert after.keys() == before.keys() == dict(pruned.named_parameters()).keys() - {constant}
    held = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    assert held[0] | held[1] == {id(p) for p in pruned.parameters()}
    assert id(pruned.get_parameter(constant)) in held[1]
    whole = [
        name
        for name, kept in before.items()
        if kept and pruned.get_parameter(name).shape == model.get_parameter(name).shape
    ]
    assert whole
    for name in whole:
        assert all(torch.equal(after[name][key], value) for key, value in before[name].items())
    was = pruned.get_parameter(constant).detach().clone()
    step(pruned, optimizer, second)
    assert not torch.equal(pruned.get_parameter(constant), was)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_training_goes_on_without_dropped_branches(optimiser: str) -> None:
    subject = SUBJECTS["residual"]
    model = subject.network()
    sites = discover(model, subject.example())
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*subject.pairs(5, 8), strict=True)))
    recipe = Recipe(epochs=3, batch_size=8, optimiser=optimiser, learning_rate=0.02, average_decay=0.8)  # type: ignore[arg-type]
    paused = fit(model, data, recipe, until=2)
    plan = dropping(sites)
    state = cut_state(paused.state, model, plan, sites)
    pruned = cut(model, plan, sites)
    assert state.network.keys() == state_of(pruned).keys()
    assert {name: t.shape for name, t in state.network.items()} == {n: t.shape for n, t in state_of(pruned).items()}
    result = fit(pruned, data, recipe, start=state)
    assert [epoch.number for epoch in result.history] == [1, 2, 3]
