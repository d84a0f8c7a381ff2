import copy
import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from support.pupils import learnt, network
from torch import nn

from scionet.errors import CheckpointError, InvalidSetting, TrainingError
from scionet.network.calling import state_of
from scionet.training.grda import GRDA
from scionet.training.identity import of_optimiser
from scionet.training.optimisers import OPTIMISERS, build, load_memory, memory_of, refuse_stale
from scionet.training.recipes import Optimiser, Recipe


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


SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {"betas": [0.8, 0.95], "amsgrad": True},
    "nadam": {"momentum_decay": 0.01, "decoupled_weight_decay": True},
    "rmsprop": {"momentum": 0.5, "centered": True, "alpha": 0.9},
    "adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
    "sgd": {"dampening": 0.0},
    "rprop": {"etas": [0.4, 1.3], "step_sizes": [1e-5, 1.0]},
    "grda": {"c": 0.01, "mu": 0.6},
}
"""Hyperparameters of some optimisers."""


def recipe_of(name: str, **more: Any) -> Recipe:
    rate = 0.01 if name != "adadelta" else 1.0
    decay = 0.0 if name in ("grda", "rprop") else 1e-3
    settings = SETTINGS.get(name, {})
    given = {"epochs": 3, "batch_size": 16, "learning_rate": rate, "weight_decay": decay}
    return Recipe(**{**given, "optimiser": name, "optimiser_settings": settings, **more})


def by_hand(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser as a user makes it."""
    kind = GRDA if name == "grda" else {k.lower(): v for k, v in vars(torch.optim).items()}[name]
    recipe = recipe_of(name)
    own = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in SETTINGS.get(name, {}).items()}
    decay = {} if name == "rprop" else {"weight_decay": recipe.weight_decay}
    return kind(model.parameters(), lr=recipe.learning_rate, **decay, **own, **settings)


def test_the_names_are_those_of_torch_and_all_have_the_form_of_the_project() -> None:
    # Not among them: LBFGS needs a closure, SparseAdam sparse gradients; Adafactor's state has other shapes, and Muon
    # takes matrices alone.
    known = {name.lower(): kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    assert all(known[name] is kind for name, kind in OPTIMISERS.items() if name != "grda")
    assert set(OPTIMISERS) == set(get_args(Optimiser))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_named_optimiser_is_that_of_torch_and_goes_on(name: str, tmp_path: Path) -> None:
    named, own, broken = network(), network(), network()
    learnt(named, recipe_of(name))
    learnt(own, recipe_of(name, optimiser="sgd", optimiser_settings={}), optimizer=by_hand(name, own))
    for until in (1, 2, None):
        learnt(broken, recipe_of(name), state_file=tmp_path / "run.safetensors", until=until)
    for tensor, other, again in zip(*(state_of(model).values() for model in (named, own, broken)), strict=True):
        assert torch.equal(tensor, other)
        assert torch.equal(tensor, again)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_state_without_memory_starts_it_from_the_beginning(name: str) -> None:
    start = learnt(network(), recipe_of(name), until=0).state
    model, expected = network(), network()
    learnt(model, recipe_of(name), start=replace(start, memory={}))
    learnt(expected, recipe_of(name))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_damaged_state_is_refused(name: str) -> None:
    start = learnt(network(), recipe_of(name), until=1).state
    key = next(iter(start.memory["0.weight"]))
    for wrong in ({"other": torch.zeros(3)}, {key: torch.zeros(7)}):
        memory = {**start.memory, "0.weight": {**start.memory["0.weight"], **wrong}}
        with pytest.raises(CheckpointError, match=r"the state of the optimiser is damaged: of 0\.weight it holds"):
            learnt(network(), recipe_of(name), start=replace(start, memory=memory))


@pytest.mark.parametrize(
    ("optimiser", "given", "message"),
    [
        ("adam", {"beta": 0.9}, "unknown hyperparameter of adam in optimiser_settings 'beta'.* Did you mean 'betas'"),
        ("adam", {"betas": [0.9, 1.9]}, r"adam refuses the optimiser_settings .*\(0\.9, 1\.9\).*: Invalid beta"),
        ("adamw", {"eps": "x"}, "optimiser_settings map names to numbers"),
        ("adam", {"lr": 0.1}, "unknown hyperparameter of adam"),
        ("adam", {"weight_decay": 0.1}, "unknown hyperparameter of adam"),
        ("adam", {"fused": True}, "unknown hyperparameter of adam"),
        ("sgd", {"momentum": 0.1}, "unknown hyperparameter of sgd"),
        ("rmsprop", {"alpha": [0.1]}, "rmsprop refuses the optimiser_settings"),
        ("rprop", {"etas": [0.5]}, "rprop refuses the optimiser_settings"),
        ("grda", {}, r"grda needs c, mu; set optimiser_settings=\{'c': \.\.\.\}"),
        ("grda", {"c": 0.1}, "grda needs mu"),
        ("grda", {"c": 0.1, "mu": 1.0}, r"mu lies inside \(0, 1\)"),
    ],
)
def test_hyperparameters_that_it_does_not_have_are_refused(optimiser: str, given: Any, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        learnt(network(), Recipe(optimiser=optimiser, optimiser_settings=given, batch_size=16, weight_decay=0))  # type: ignore[arg-type]


def test_weight_decay_that_an_optimiser_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"rprop has no weight decay; set weight_decay to 0 \(it is 0.01\)"):
        build(network(), Recipe(optimiser="rprop", weight_decay=0.01))


def test_an_optimiser_that_needs_a_closure_is_refused() -> None:
    model = network()
    with pytest.raises(InvalidSetting, match="LBFGS needs a closure in each step, which fit does not have"):
        learnt(model, optimizer=torch.optim.LBFGS(model.parameters()))


OTHERS: dict[str, Any] = {"betas": (0.5, 0.6), "etas": (0.1, 1.9), "step_sizes": (1e-3, 1.0), "d": 1.5}
TOGETHER: dict[str, dict[str, Any]] = {"nesterov": {"momentum": 0.5}, "fused": {"foreach": False}}
"""What some hyperparameters need."""


def another(name: str, value: Any) -> Any:
    """Another value of a hyperparameter."""
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, tuple):
        return 1e-9, 1e-2
    return not value if value is None or isinstance(value, bool) else 0.9 * value or 0.25


@pytest.mark.filterwarnings("ignore:gRDA's theory is without weight decay")
@pytest.mark.parametrize("kind", [torch.optim.Adafactor, *OPTIMISERS.values()], ids=lambda kind: kind.__name__)
def test_every_hyperparameter_of_an_optimiser_is_part_of_the_identity(kind: type[torch.optim.Optimizer]) -> None:
    needed = {"lr": 0.1, **({"c": 0.1, "mu": 0.6} if kind is GRDA else {})}
    weight = nn.Parameter(torch.ones(2, 2))
    json.dumps(of_optimiser(kind([weight], **needed)))
    for parameter in list(inspect.signature(kind).parameters.values())[1:]:
        name, given = parameter.name, {**needed, **TOGETHER.get(parameter.name, {})}
        changed = {**given, name: another(name, given.get(name, parameter.default))}
        assert of_optimiser(kind([weight], **changed)) != of_optimiser(kind([weight], **given)), name


def test_tensors_and_none_as_hyperparameters_are_told_apart() -> None:
    def identity(**given: Any) -> dict[str, Any]:
        return of_optimiser(torch.optim.Adam([nn.Parameter(torch.ones(2))], **given))

    rates = [identity(lr=torch.tensor(rate), foreach=False) for rate in (0.1, 0.2, 0.1)]
    assert rates[0] == rates[2] != rates[1]
    assert len({json.dumps(identity(foreach=foreach), sort_keys=True) for foreach in (None, False, True)}) == 3
    assert identity(betas=(0.9, 0.99)) != identity(betas=(0.9, 0.98))
    model, expected = network(), network()
    learnt(
        model, optimizer=torch.optim.Adam(model.parameters(), lr=torch.tensor(0.01, dtype=torch.float64), foreach=False)
    )
    learnt(expected, optimizer=torch.optim.Adam(expected.parameters(), lr=0.01, foreach=False))
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other)
