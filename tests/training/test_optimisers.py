import copy

import pytest
import torch
from support.pupils import network
from torch import nn

from scionet.errors import CheckpointError, TrainingError
from scionet.training.optimisers import build, load_memory, memory_of, refuse_stale
from scionet.training.recipes import Recipe


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model.eval()(torch.randn(4, 2, 6, 6, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay_where_that_is_asked(optimiser: str) -> None:
    model = network()
    made = build(model, Recipe(optimiser=optimiser, weight_decay=0.5, decay_vectors=False))  # type: ignore[arg-type]
    decays = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    found = {name: decays[id(parameter)] for name, parameter in model.named_parameters()}
    assert found == {"0.weight": 0.5, "1.weight": 0, "1.bias": 0, "6.weight": 0.5, "6.bias": 0}
    everything = build(model, Recipe(weight_decay=0.5))
    assert [(group["weight_decay"], len(group["params"])) for group in everything.param_groups] == [(0.5, 5)]


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model[0].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    held = [p for group in build(model, Recipe()).param_groups for p in group["params"]]
    assert len(held) == 4
    assert all(p is not model[0].weight for p in held)
    with pytest.raises(TrainingError, match="no parameter of Sequential requires gradients"):
        build(model.requires_grad_(False), Recipe())


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_memory_goes_to_another_optimiser(optimiser: str) -> None:
    model = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    made = build(model, Recipe(optimiser=optimiser, learning_rate=0.01))  # type: ignore[arg-type]
    trained(model, made, 3)
    other = copy.deepcopy(model)
    fresh = build(other, Recipe(optimiser=optimiser, learning_rate=0.01))  # type: ignore[arg-type]
    load_memory(fresh, other, {n: {k: t.clone() for k, t in m.items()} for n, m in memory_of(made, model).items()})
    for one, twin in ((model, made), (other, fresh)):
        trained(one, twin, 2, seed=1)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    for kept, again in zip(made.state.values(), fresh.state.values(), strict=True):
        assert kept.keys() == again.keys()
        assert all(kept[key].stride() == again[key].stride() for key in kept)


def test_memory_of_another_network_is_refused() -> None:
    model = network()
    made = build(model, Recipe())
    with pytest.raises(CheckpointError, match=r"of another network, with parameters conv\.weight"):
        load_memory(made, model, {"conv.weight": {"momentum_buffer": torch.zeros(3)}})


def test_memory_that_is_no_tensor_is_refused() -> None:
    model = network()
    made = build(model, Recipe())
    made.state[next(model.parameters())] = {"count": 3, "none": None}
    assert memory_of(made, model) == {"0.weight": {"count": torch.tensor(3)}}
    made.state[next(model.parameters())] = {"history": []}
    with pytest.raises(TrainingError, match="holds 'history', a list"):
        memory_of(made, model)


def test_an_optimiser_of_another_network_is_refused() -> None:
    model = network()
    stale = build(copy.deepcopy(model), Recipe())
    with pytest.raises(TrainingError, match=r"stale optimiser: 5 of its 5 tensors .*6, 2, 3, 3.* cut_optimizer_"):
        refuse_stale(stale, model)
    refuse_stale(build(model, Recipe()), model)


def test_an_optimiser_of_a_replaced_layer_is_refused() -> None:
    model = network()
    made = build(model, Recipe())
    model[6] = nn.Linear(24, 5)  # type: ignore[index, operator]
    with pytest.raises(TrainingError, match="stale optimiser: 2 of its 5"):
        refuse_stale(made, model)
