"""Files of networks without some branches, and of networks that were pruned again."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.dropping import dropping_plan
from support.mutations import mutated
from support.sealed_files import header_of, reseal
from support.small_networks import Net, conv, image, residual
from torch import Tensor, nn

from scionet.errors import CheckpointError, PruneError
from scionet.files.safetensors_files import hash_tensors
from scionet.models.factory import build
from scionet.models.resnets import digits_cnn
from scionet.network.calling import Batch, call, state_of
from scionet.network.checkpoints.checkpoint import describe, load_pruned, read_plan, save_pruned, save_tuned
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut
from scionet.pruning import prune


class Inner(nn.Module):
    """A branch inside a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(conv(6, 5), nn.ReLU(), conv(5, 6)), conv(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.body(x))


def nested() -> Net:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(torch.relu(m.last(x + m.outer(x))))

    return Net(forward, stem=conv(3, 6), outer=Inner(), last=conv(6, 5), head=conv(5, 2))


def convnext() -> nn.Module:
    return build("timm:convnext_atto", depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), num_classes=10)


def vit() -> nn.Module:
    settings = {"img_size": 32, "depth": 2, "num_classes": 10, "embed_dim": 24, "num_heads": 3}
    return build("timm:vit_tiny_patch16_224", **settings)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Batch]] = {
    "residual": (residual, image()),
    "digits": (digits_cnn, image(channels=1)),
    "nested": (nested, image()),
    "convnext": (convnext, image(size=32)),
    "vit": (vit, image(size=32)),
}


def some(sites: Sites, seed: int) -> Plan:
    """A plan that drops one branch in two, every second of them without a constant, and one unit in two."""
    rng = np.random.default_rng(seed)
    dropped: dict[str, Tensor | None] = {}
    for number, (name, branch) in enumerate(sites.branches.items()):
        if number % 2 == seed % 2 and not any(branch.overlaps(sites.branches[other]) for other in dropped):
            dropped[name] = None if len(dropped) % 2 else torch.from_numpy(rng.standard_normal(branch.channels)).float()
    kept = {name: sorted(rng.permutation(site.width)[: (site.width + 1) // 2].tolist()) for name, site in sites.items()}
    return dropping_plan(sites, kept, dropped)


def made(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETWORKS[name][0]().eval()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_loads_into_a_dense_instance(name: str, seed: int, tmp_path: Path) -> None:
    example, model = NETWORKS[name][1], made(name)
    sites = discover(model, example)
    plan = some(sites, seed)
    assert plan.dropped
    pruned = cut(model, plan, sites)
    path = save_pruned(tmp_path / "net.safetensors", pruned, plan, sites)
    loaded = load_pruned(path, lambda: made(name, 7)).eval()
    assert hash_tensors(state_of(loaded)) == hash_tensors(state_of(pruned))
    assert torch.equal(call(loaded, example), call(pruned, example))
    assert {n for n, _ in loaded.named_parameters()} == {n for n, _ in pruned.named_parameters()}
    assert [type(m).__name__ for m in loaded.modules()] == [type(m).__name__ for m in pruned.modules()]
    assert describe(path)["dropped"] == list(plan.dropped)
    again = save_tuned(tmp_path / "again.safetensors", loaded, path)
    assert load_file(again).keys() == load_file(path).keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_prunings_in_a_row_load_into_a_dense_instance(name: str, tmp_path: Path) -> None:
    example, dense = NETWORKS[name][1], made(name)
    model = dense
    for seed in (1, 0, 0):
        sites = discover(model, example)
        plan = some(sites, seed)
        model = cut(model, plan, sites)
    path = save_pruned(tmp_path / "net.safetensors", model, plan, sites)
    loaded = load_pruned(path, lambda: made(name, 7)).eval()
    assert hash_tensors(state_of(loaded)) == hash_tensors(state_of(model))
    assert torch.equal(call(loaded, example), call(model, example))
    assert describe(path)["prunings"] == 3


def test_a_branch_around_a_dropped_one_is_dropped_later(tmp_path: Path) -> None:
    model = made("nested")
    for output in ("outer.body", "outer"):
        sites = discover(model, image())
        (name,) = (name for name, branch in sites.branches.items() if branch.output == output)
        plan = Plan((), dropped={name: torch.randn(6)})
        model = cut(model, plan, sites)
    assert "outer.body.constant" not in state_of(model)
    path = save_pruned(tmp_path / "net.safetensors", model, plan, sites)
    loaded = load_pruned(path, lambda: made("nested", 7)).eval()
    assert torch.equal(loaded(image()), model(image()))
    assert describe(path)["dropped"] == ["outer.body", "outer.last"]


def test_trained_constants_are_saved(tmp_path: Path) -> None:
    model = made("residual")
    sites = discover(model, image())
    plan = Plan((), dropped={"b1": torch.zeros(6)})
    pruned = cut(model, plan, sites)
    with torch.no_grad():
        pruned.get_parameter("b1.constant").copy_(torch.arange(6.0))
    path = save_pruned(tmp_path / "net.safetensors", pruned, plan, sites)
    assert load_pruned(path, residual()).get_parameter("b1.constant").tolist() == [0, 1, 2, 3, 4, 5]


def test_the_plan_of_a_file_says_what_was_dropped(tmp_path: Path) -> None:
    model = made("residual")
    sites = discover(model, image())
    plan = Plan((), dropped={"b1": torch.ones(6), "b2": None})
    path = save_pruned(tmp_path / "net.safetensors", cut(model, plan, sites), plan, sites)
    found = read_plan(path)
    assert {name: None if c is None else c.tolist() for name, c in found.dropped.items()} == {
        "b1": [0.0] * 6,
        "b2": None,
    }


def test_files_without_dropped_branches_are_as_before(tmp_path: Path) -> None:
    result = prune(made("residual"), budget="params<=80%", example_inputs=image(), method="l1", progress=False)
    header = json.loads(header_of(save_pruned(tmp_path / "net.safetensors", result.model, result.plan, result.sites)))
    assert header["requires"] == []
    assert header["prunings"][0].keys() == {"plan", "slots"}
    assert "dropped" not in header["prunings"][0]["plan"]
    assert json.loads(result.plan.to_json()).keys() == {
        *("choices", "dense_hash", "format_version", "method", "requires", "seed", "settings", "status")
    }


def test_older_readers_are_told(tmp_path: Path) -> None:
    model = made("residual")
    sites = discover(model, image())
    plan = Plan((), dropped={"b1": None})
    assert json.loads(plan.to_json())["requires"] == ["dropped_branches"]
    path = save_pruned(tmp_path / "net.safetensors", cut(model, plan, sites), plan, sites)
    assert json.loads(header_of(path))["requires"] == ["dropped_branches"]


def test_a_network_of_another_cut_is_not_saved(tmp_path: Path) -> None:
    model = made("residual")
    sites = discover(model, image())
    plan = Plan((), dropped={"b1": None})
    with pytest.raises(CheckpointError, match="in the network or in the sites but not in both"):
        save_pruned(tmp_path / "net.safetensors", model, plan, sites)
    path = save_pruned(tmp_path / "net.safetensors", cut(model, plan, sites), plan, sites)
    with pytest.raises(CheckpointError, match="another architecture"):
        load_pruned(path, cut(model, plan, sites))


def removal(header: dict[str, Any]) -> dict[str, Any]:
    return header["prunings"][0]["removals"]["b1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["prunings"][0].pop("removals"), "removals must name the dropped branches of the plan"),
        (lambda h: h["prunings"][0]["plan"].pop("dropped"), "removals must name the dropped branches of the plan"),
        (lambda h: h["prunings"][0]["plan"]["dropped"].update(b1=5), "must be a vector, as long as the plan says"),
        (lambda h: h["tensors"].pop("b1.constant"), "must be a vector, as long as the plan says"),
        (lambda h: removal(h).update(output="a1"), "'a1.constant' must be a vector, as long as the plan says"),
        (lambda h: removal(h).update(output="stem"), "ends with a module inside whose channels are known"),
        (lambda h: removal(h)["stand_ins"].update({"": {"dim": -1}}), "ends with a module inside whose channels"),
        (lambda h: removal(h)["stand_ins"]["a1"].update(dim=1), "a dimension counted from the end"),
        (lambda h: removal(h)["stand_ins"]["a1"].update(sampling=[[0, 0]]), "strides of 1 or more"),
        (lambda h: removal(h)["stand_ins"]["a1"].update(place=[2, 2]), "a position in a tuple"),
        (lambda h: removal(h)["stand_ins"].pop("a1"), "plan and weights disagree"),
        (lambda h: removal(h)["stand_ins"].update({"head": {"dim": None}}), "plan and weights disagree"),
        (lambda h: removal(h)["stand_ins"].update({"none": {"dim": None}}), "has no attribute `none`"),
        (lambda h: removal(h).update(loose=["scale"]), "'scale' is no stored tensor"),
        (lambda h: removal(h).update(loose=["head.bias"]), "head.bias must have a single entry left"),
    ],
)
def test_removals_that_fit_nothing(change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    model = made("residual")
    sites = discover(model, image())
    plan = Plan((), dropped={"b1": torch.ones(6)})
    path = save_pruned(tmp_path / "net.safetensors", cut(model, plan, sites), plan, sites)
    header = json.loads(header_of(path))
    change(header)
    reseal(path, "scionet", json.dumps(header))
    instance = made("residual", 7)
    before = hash_tensors(state_of(instance)), [type(m) for m in instance.modules()]
    with pytest.raises(CheckpointError, match=message):
        load_pruned(path, instance)
    assert before == (hash_tensors(state_of(instance)), [type(m) for m in instance.modules()])


def test_mutated_removals_load_all_stored_tensors_or_raise_an_error_of_ours(tmp_path: Path, fuzz_cases: int) -> None:
    model = made("nested")
    sites = discover(model, image())
    plan = dropping_plan(sites, {"stem": [0, 2, 3]}, {"outer.body": torch.ones(6)})
    path = save_pruned(tmp_path / "net.safetensors", cut(model, plan, sites), plan, sites)
    header, tensors, loaded = json.loads(header_of(path)), load_file(path), 0
    for case in range(fuzz_cases):
        part = json.dumps(header["prunings"][0]["removals"])
        fresh = made("nested", 1)
        before = hash_tensors(state_of(fresh)), [type(m) for m in fresh.modules()]
        try:
            changed = json.loads(mutated(part, random.Random(case)))
        except (ValueError, RecursionError):
            continue
        reseal(
            path,
            "scionet",
            json.dumps({**header, "prunings": [{**header["prunings"][0], "removals": changed}]}),
            tensors,
        )
        try:
            load_pruned(path, fresh)
        except PruneError:
            assert before == (hash_tensors(state_of(fresh)), [type(m) for m in fresh.modules()]), f"case {case}"
            continue
        loaded += 1
        assert all(torch.equal(state_of(fresh)[name], tensor) for name, tensor in tensors.items()), f"case {case}"
    assert loaded
