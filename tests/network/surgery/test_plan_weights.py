"""A plan belongs to the weights that it was made for: everything that applies it refuses others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import chain, image, residual
from torch import nn
from torch.utils.data import TensorDataset

from scionet.errors import InvalidSetting
from scionet.network.calling import hash_tensors, state_of
from scionet.network.checkpoints.checkpoint import load_pruned, save_pruned
from scionet.network.discovery.discover import discover
from scionet.network.plan import Choice, Plan
from scionet.network.surgery.cut import cut
from scionet.network.surgery.verification import verify
from scionet.pruning import PruneResult, prune
from scionet.sparse_training.optimizer_surgery import cut_optimizer_, cut_state
from scionet.training.fit import fit
from scionet.training.recipes import Recipe


def pruned(model: nn.Module) -> PruneResult:
    return prune(model, [image(batch=16)], "macs<=60%", example_inputs=image(), progress=False)


@torch.no_grad()
def train(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.add_(0.01)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


APPLICATIONS: dict[str, Callable[[nn.Module, PruneResult], Any]] = {
    "cut": lambda model, result: cut(model, result.plan, result.sites),
    "cut, found again": lambda model, result: cut(model, result.plan, discover(model, image())),
    "verify": lambda model, result: verify(model, result.plan, result.sites, result.model, image()),
    "cut_optimizer_": lambda model, result: cut_optimizer_(
        optimizer_of(model), model, result.model, result.plan, result.sites
    ),
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_other_weights_are_refused_with_advice(name: str) -> None:
    model = residual().eval()
    result = pruned(model)
    APPLICATIONS[name](model, result)
    train(model)
    before = hash_tensors(state_of(model))
    with pytest.raises(InvalidSetting, match=r"made for other weights .* plan\.rebased\(discover\(model, example_inp"):
        APPLICATIONS[name](model, result)
    assert hash_tensors(state_of(model)) == before


def test_statistics_of_batchnorm_are_weights() -> None:
    model = chain().eval()
    result = pruned(model)
    model.train()(image())
    with pytest.raises(InvalidSetting, match="made for other weights"):
        cut(model.eval(), result.plan, result.sites)


def test_a_rebased_plan_keeps_the_units_and_the_new_weights() -> None:
    model = residual().eval()
    old = pruned(model)
    assert old.plan.tensors
    train(model)
    sites = discover(model, image())
    plan = old.plan.rebased(sites)
    assert (plan.choices, plan.tensors, plan.dense_hash) == (old.plan.choices, {}, sites.dense_hash)
    small = cut(model, plan, sites)
    verify(model, plan, sites, small, image())
    assert small.get_parameter("stem.bias").tolist() == model.get_parameter("stem.bias")[[*plan.kept["stem"]]].tolist()


def test_a_plan_is_not_rebased_on_another_network() -> None:
    plan = pruned(residual().eval()).plan
    with pytest.raises(InvalidSetting, match="no such site"):
        plan.rebased(discover(chain(), image()))


def test_a_plan_made_by_hand_fits_any_weights() -> None:
    model = chain().eval()
    sites = discover(model, image())
    train(model)
    assert cut(model, Plan((Choice("a", 4, (0, 2), (1.0, 1.0)),)), sites).get_parameter("a.weight").shape[0] == 2


def test_sites_of_other_weights_are_not_saved(tmp_path: Path) -> None:
    model = residual().eval()
    result = pruned(model)
    train(model)
    with pytest.raises(InvalidSetting, match="the plan was made for other weights than the sites"):
        save_pruned(tmp_path / "net.safetensors", result.model, result.plan, discover(model, image()))
    train(result.model)  # a fine-tuned network is another matter
    path = save_pruned(tmp_path / "net.safetensors", result.model, result.plan, result.sites)
    assert hash_tensors(state_of(load_pruned(path, residual))) == hash_tensors(state_of(result.model))


def test_the_state_of_a_training_is_cut_by_a_plan_for_its_weights() -> None:
    """For the network's weights or for their average, but not for those of another epoch."""
    model = residual()
    data = TensorDataset(image(batch=16), torch.arange(16) % 2)
    recipe = Recipe(epochs=3, batch_size=8, learning_rate=0.02, average_decay=0.8)
    early = fit(model, data, recipe, until=1).state
    result = pruned(model.eval())
    assert cut_state(early, model, result.plan, result.sites).step == early.step
    late = fit(model, data, recipe, start=early, until=2).state
    with pytest.raises(InvalidSetting, match="made for other weights"):
        cut_state(late, model, result.plan, result.sites)
