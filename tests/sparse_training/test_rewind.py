"""Rewinding: without masks nothing changes; with them, what is removed is and stays zero."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pupils import QUICK, Execution, Recipe, examples, network, tensors
from torch import nn

from scionet.errors import TrainingError
from scionet.network.calling import state_of
from scionet.sparse_training.rewind import HeldAtZero, rewound
from scionet.training.accuracy import Accuracy
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.fit import FitResult, fit
from scionet.training.state import best_epoch


def trained(until: int | None = None, start: object = None, **more: object) -> tuple[nn.Module, FitResult]:
    model = network()
    return model, fit(model, examples(), QUICK, until=until, start=start, **more)  # type: ignore[arg-type]


def masks_of(model: nn.Module, density: float = 0.4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in model.named_parameters() if p.ndim > 1}


@pytest.mark.parametrize("epoch", [1, 2])
def test_without_masks_a_rewound_training_ends_as_the_first_one(epoch: int) -> None:
    whole, _ = trained()
    _, early = trained(until=epoch)
    again, _ = trained(start=rewound(early.state, {}))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("rate_only", [False, True])
def test_what_is_removed_stays_zero_and_what_stays_learns(rate_only: bool) -> None:
    whole, final = trained()
    _, early = trained(until=1)
    masks = masks_of(whole)
    start = rewound(early.state, masks, final.state if rate_only else None)
    source = (final if rate_only else early).state.network
    for name, mask in masks.items():
        assert torch.equal(start.network[name], source[name] * mask)
    model, result = trained(start=start, callbacks=(HeldAtZero(masks),))
    assert result.history[-1].step == final.history[-1].step
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert not torch.equal(weight[mask], start.network[name][mask])


def test_the_memory_of_what_is_removed_is_forgotten() -> None:
    whole, final = trained()
    _, early = trained(until=1)
    masks = masks_of(whole)
    kept = rewound(early.state, masks).memory
    for name, mask in masks.items():
        assert all(not value[~mask].any() for value in kept[name].values() if value.shape == mask.shape)
    assert rewound(early.state, masks, final.state).memory == {}


def test_weights_are_held_at_zero_in_a_loop_of_ones_own() -> None:
    model = network()
    masks = masks_of(model)
    held, optimizer = HeldAtZero(masks), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    context = TrainingContext(model, optimizer)
    held.on_start(context)
    images, labels = tensors(40)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        held.after_step(context)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert weight[mask].all()


def test_a_rewound_training_starts_with_new_callbacks() -> None:
    masks = masks_of(network())
    _, early = trained(until=1, callbacks=(HeldAtZero(masks),))
    trained(start=rewound(early.state, {}))
    assert early.state.callbacks
    assert rewound(early.state, masks).callbacks is None


def test_masks_of_another_network_are_refused() -> None:
    _, early = trained(until=1)
    with pytest.raises(TrainingError, match="1 masks fit no parameter, such as 'other'"):
        rewound(early.state, {"other": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(TrainingError, match="fit no parameter"):
        trained(callbacks=(HeldAtZero({"0.weight": torch.ones(2, dtype=torch.bool)}),))


def all_tensors_of(model: nn.Module, result: FitResult) -> list[dict[str, torch.Tensor]]:
    """All weights that a training ends with."""
    state = result.state
    return [
        dict(model.named_parameters()),
        *(dict(part) for part in (state.network, state.average, state.best) if part),
    ]


def is_held(masks: dict[str, torch.Tensor], model: nn.Module, result: FitResult) -> bool:
    return all(
        not tensors[name][~mask].any() for tensors in all_tensors_of(model, result) for name, mask in masks.items()
    )


RECIPES = {
    "momentum": QUICK,
    "average": replace(QUICK, average_decay=0.9),
    "best": replace(QUICK, patience=3),
    "both, adam": replace(QUICK, optimiser="adam", weight_decay=0.1, average_decay=0.9, patience=3),
    "grda": replace(QUICK, optimiser="grda", optimiser_settings={"c": 1e-3, "mu": 0.6}, weight_decay=0),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_masks_hold_in_all_weights_from_a_state_that_knew_none(recipe: Recipe) -> None:
    model, first = network(), network()
    early = fit(first, examples(), recipe, validation=examples(30, 2), until=2)
    masks = masks_of(model)
    assert not is_held(masks, first, early)
    start = early.state.with_new_callbacks()
    result = fit(model, examples(), recipe, validation=examples(30, 2), start=start, callbacks=[HeldAtZero(masks)])
    assert is_held(masks, model, result)
    assert len(all_tensors_of(model, result)) == 2 + bool(recipe.average_decay) + bool(recipe.patience)
    assert all(model.get_parameter(name)[mask].all() for name, mask in masks.items() if recipe.optimiser != "grda")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_masks_hold_in_all_weights_of_a_dense_network(recipe: Recipe) -> None:
    model = network()
    masks = masks_of(model)
    result = fit(model, examples(), recipe, validation=examples(30, 2), callbacks=[HeldAtZero(masks)])
    assert is_held(masks, model, result)


def test_the_best_weights_before_the_masks_are_masked() -> None:
    """Where nothing that is learnt under the masks is better, the network ends with earlier weights."""
    recipe = replace(QUICK, patience=2, learning_rate=0.3, schedule="constant")
    early = fit(network(), examples(), recipe, validation=examples(30, 2), until=1)
    best = replace(early.state.history[0], validation=Accuracy(30, 30))
    start = replace(early.state.with_new_callbacks(), history=(best,))
    model = network()
    masks = masks_of(model, density=0.1)
    result = fit(model, examples(), recipe, validation=examples(30, 2), start=start, callbacks=[HeldAtZero(masks)])
    assert best_epoch(result.history) == 1
    assert is_held(masks, model, result)
    assert torch.equal(model.get_parameter("1.weight"), start.best["1.weight"])


class Killed(Exception):
    pass


@dataclass
class Killing(Callback):
    """Ends the program after some steps."""

    def __post_init__(self) -> None:
        self.left = -1

    def settings(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def after_step(self, context: TrainingContext) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_training_with_masks_that_is_killed_again_and_again_ends_like_an_unbroken_one(
    recipe: Recipe, tmp_path: Path
) -> None:
    def life(left: int, file: Path | None) -> tuple[nn.Module, FitResult]:
        model, killing = network(), Killing()
        killing.left = left
        callbacks = [HeldAtZero(masks_of(model)), killing]
        more = {"validation": examples(30, 2), "execution": Execution(save_steps=2), "state_file": file}
        return model, fit(model, examples(), recipe, callbacks=callbacks, **more)  # type: ignore[arg-type]

    unbroken, expected = life(-1, None)
    file = tmp_path / "run.safetensors"
    for left in (1, 3, 5):
        with pytest.raises(Killed):
            life(left, file)
    model, result = life(-1, file)
    assert result.history == expected.history
    assert all(torch.equal(state_of(model)[name], tensor) for name, tensor in state_of(unbroken).items())
    assert is_held(masks_of(network()), model, result)


def test_masks_that_are_no_booleans_are_refused() -> None:
    with pytest.raises(TrainingError, match="give booleans"):
        trained(callbacks=(HeldAtZero({"0.weight": torch.ones(6, 2, 3, 3)}),))
