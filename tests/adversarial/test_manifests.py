"""Manifests and plans that are well sealed and hostile: a network of the same weights, or an error of ours."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.mutations import mutated
from support.sealed_files import header_of, reseal
from support.small_networks import image, residual
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import PruneError
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import Batch, call, state_of
from scionet.network.checkpoints.checkpoint import describe, load_pruned, read_plan, recorded_inputs, save_pruned
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan
from scionet.pruning import prune


class Attention(nn.Module):
    """Heads of torch's attention, a tied weight, and a buffer outside the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.up, self.again, self.down = nn.Linear(8, 12), nn.Linear(8, 12, bias=False), nn.Linear(12, 8)
        self.again.weight = self.up.weight
        self.register_buffer("scale", torch.linspace(1, 2, 12), persistent=False)
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        hidden = functional.relu(self.up(x)) * self.again(x).sigmoid() * self.scale
        return self.down(hidden)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Batch]] = {
    "residual": (residual, image()),
    "attention": (Attention, torch.rand(2, 5, 8, generator=torch.Generator().manual_seed(0))),
}


def seeded_network(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETWORKS[name][0]().eval()


@cache
def pruned_twice(name: str) -> Any:
    example = NETWORKS[name][1]
    first = prune(seeded_network(name, 0), budget="params<=80%", example_inputs=example, method="l1")
    return prune(first.model, budget="params<=60%", example_inputs=example, method="random")


def anatomy(model: nn.Module) -> list[Any]:
    """Everything that loading might leave changed."""
    plain = (int, float, str, bool, tuple, type(None))
    return [
        hash_tensors(state_of(model)),
        [(n, id(t)) for n, t in state_of(model).items()],
        [
            (type(m), {k: v for k, v in vars(m).items() if isinstance(v, plain)}, sorted(vars(m)))
            for m in model.modules()
        ],
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_mutated_manifests_give_the_same_network_or_an_error_of_ours(
    name: str, tmp_path: Path, fuzz_cases: int
) -> None:
    example, result = NETWORKS[name][1], pruned_twice(name)
    path = save_pruned(
        tmp_path / "net.safetensors", result.model, result.plan, result.sites, example_inputs=example, extra={"a": [1]}
    )
    text = header_of(path)
    tensors, expected, loaded = load_file(path), call(result.model, example), 0
    fresh = seeded_network(name, 1)
    before = anatomy(fresh)
    for case in range(fuzz_cases):
        changed = mutated(text, random.Random(case))
        reseal(path, "scionet", changed, tensors)
        for read in (describe, read_plan, recorded_inputs):
            ours_or_fine(read, path)
        if ours_or_fine(load_pruned, path, fresh) is None:
            assert anatomy(fresh) == before, f"case {case}: an error has left the instance changed"
            continue
        loaded += 1
        state = state_of(fresh)
        assert all(torch.equal(state[n], tensor) for n, tensor in tensors.items()), f"case {case}"
        assert torch.equal(call(fresh.eval(), example), expected), f"case {case}: another network"
        fresh = seeded_network(name, 1)
        before = anatomy(fresh)
    assert loaded


def ours_or_fine(function: Callable[..., Any], place: Any, *arguments: Any) -> Any:
    """What a function returns; None if it raises an error of ours, which names the file."""
    try:
        return function(place, *arguments)
    except PruneError as error:
        text = str(error)
    assert not isinstance(place, Path) or str(place) in text
    assert len(text) < 2000
    return None


@pytest.mark.parametrize("shape", [(2**28,), (2, 2**13, 2**14), (1,) * 50 + (2**28,)], ids=len)
def test_recorded_inputs_of_any_shape_take_no_memory(shape: tuple[int, ...], tmp_path: Path) -> None:
    result = pruned_twice("residual")
    path = save_pruned(tmp_path / "net.safetensors", result.model, result.plan, result.sites)
    inputs = {"args": [{"shape": shape, "dtype": "float32"}], "kwargs": {}}
    reseal(path, "scionet", json.dumps({**json.loads(header_of(path)), "inputs": inputs}))
    found = recorded_inputs(path)
    assert isinstance(found, tuple)
    assert (found[0].shape, found[0].untyped_storage().nbytes()) == (shape, 4)


def test_inputs_that_could_not_be_read_are_not_saved(tmp_path: Path) -> None:
    result, path = pruned_twice("residual"), tmp_path / "net.safetensors"
    huge = torch.zeros(()).expand(2**29)
    with pytest.raises(PruneError, match=r"example_inputs.* at most 1,073,741,824 are recorded\. Give fewer examples"):
        save_pruned(path, result.model, result.plan, result.sites, example_inputs=huge)
    assert not path.exists()


def test_mutated_plans_are_plans_or_errors_of_ours(fuzz_cases: int) -> None:
    result = pruned_twice("residual")
    text = result.plan.to_json()
    for case in range(fuzz_cases):
        plan = ours_or_fine(Plan.from_json, mutated(text, random.Random(case)))
        if plan is not None:
            assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()


def test_a_loaded_network_is_discovered_as_pruned(tmp_path: Path) -> None:
    example, result = NETWORKS["attention"][1], pruned_twice("attention")
    path = save_pruned(tmp_path / "net.safetensors", result.model, result.plan, result.sites)
    sites = discover(load_pruned(path, Attention()), example)
    assert sites.lineage is not None
    assert [plan.method for plan in sites.lineage.plans] == ["l1", "random"]
