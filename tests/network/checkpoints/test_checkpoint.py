import json
import os
import pickle
import resource
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.sealed_files import header_of, metadata_of, reseal
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import CheckpointError, InvalidSetting, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.models.factory import build, import_torchvision
from scionet.models.resnets import digits_cnn
from scionet.network.calling import Batch, as_arguments, state_of
from scionet.network.checkpoints.checkpoint import (
    dense_network,
    describe,
    load_pruned,
    read_plan,
    recorded_inputs,
    save_pruned,
    save_tuned,
)
from scionet.network.discovery.discover import discover
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut


class Mixed(nn.Module):
    """BatchNorm, grouped and depthwise convolution, a residual stream, a buffer outside the state dict, flatten."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.back = nn.Conv2d(12, 8, 1)
        self.prelu = nn.PReLU(8)
        self.linear = nn.Linear(8 * 16, classes)
        self.register_buffer("scale", torch.linspace(1, 2, 8).view(1, 8, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(0.5), persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.stem(x))) * self.scale + self.shift
        inner = functional.relu(self.depthwise(functional.relu(self.grouped(x))))
        return self.linear(functional.avg_pool2d(self.prelu(x + self.back(inner)), 2).flatten(1))


class Tied(nn.Module):
    """Two names for each of two layers' weights, one made in the constructor, one that only `tie` makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(6, 9), nn.Linear(6, 9, bias=False)
        self.again.weight = self.first.weight
        self.last, self.late = nn.Linear(9, 4), nn.Linear(9, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.first(x)) * functional.silu(self.again(x))
        return self.last(hidden) + self.late(hidden).tanh()

    def tie(self) -> "Tied":
        self.late.weight = self.last.weight
        return self


class Stranger(nn.Linear):
    """A layer with state that is not a tensor."""

    def get_extra_state(self) -> Tensor:
        return torch.zeros(1)

    def set_extra_state(self, state: Any) -> None:
        pass


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode; every floating-point tensor with new random values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in state_of(model).items():
            if tensor.is_floating_point():
                least, most = (0.5, 1.5) if name.endswith("running_var") else (-0.1, 0.1)
                tensor.uniform_(least, most, generator=generator)
    return model.eval()


def plan_of(sites: Sites, density: float = 0.5, seed: int = 0) -> Plan:
    rng = np.random.default_rng(seed)
    choices = []
    for site in sites.values():
        kept = tuple(np.sort(rng.permutation(site.width)[: max(1, round(density * site.width))]).tolist())
        weights = tuple(rng.uniform(0.5, 2, len(kept)).tolist())
        choices.append(Choice(site.name, site.width, kept, weights, kept[::-1], (0.5,) * len(kept), "budget met"))
    return Plan(tuple(choices), method="forward", seed=seed, dense_hash=sites.dense_hash, settings={"ridge": 1e-4})


def timm_transformer() -> nn.Module:
    """Heads of attention are sites beside the hidden units."""
    settings = {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 4, "num_classes": 3}
    return build("timm:vit_tiny_patch16_224", **settings)


def transformer() -> nn.Module:
    models = import_torchvision().models
    return models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=1, num_heads=4, hidden_dim=16, mlp_dim=24, num_classes=3
    )


Made = tuple[nn.Module, Plan, Sites]
MAKERS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = MappingProxyType(
    {
        "mixed": (Mixed, (2, 3, 8, 8)),
        "tied": (lambda: Tied().tie(), (2, 6)),
        "digits": (digits_cnn, (2, 1, 8, 8)),
        "resnet18": (lambda: build("torchvision:resnet18"), (2, 3, 64, 64)),
        "timm transformer": (timm_transformer, (2, 3, 32, 32)),
        "transformer": (transformer, (2, 3, 32, 32)),
    }
)


def example_of(name: str) -> Tensor:
    return torch.rand(MAKERS[name][1], generator=torch.Generator().manual_seed(3))


@cache
def pruned_of(name: str, seed: int = 0) -> Made:
    """A pruned network, shared by the tests, which do not change it."""
    model = randomised(MAKERS[name][0](), seed)
    sites = discover(model, example_of(name))
    plan = plan_of(sites)
    return cut(model, plan, sites), plan, sites


def output(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(inputs)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file of the pruned `Mixed`."""
    return save_pruned(tmp_path / "net.safetensors", *pruned_of("mixed"))


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("something was unpickled")

    for module, name in [(torch, "load"), (pickle, "load"), (pickle, "loads")]:
        monkeypatch.setattr(module, name, refuse)


@pytest.mark.usefixtures("no_pickle")
@pytest.mark.parametrize("name", MAKERS)
def test_loaded_network_computes_the_same_bits(name: str, tmp_path: Path) -> None:
    pruned, plan, sites = pruned_of(name)
    path = save_pruned(tmp_path / "net.safetensors", pruned, plan, sites)
    fresh = Tied() if name == "tied" else MAKERS[name][0]()
    loaded = load_pruned(path, fresh)
    assert loaded is fresh
    assert torch.equal(output(loaded, example_of(name)), output(pruned, example_of(name)))
    assert hash_tensors(state_of(loaded)) == hash_tensors(state_of(pruned))
    assert {str(m) for m in loaded.modules()} == {str(m) for m in pruned.modules()}  # sizes as the layers record them
    assert len(list(loaded.parameters())) == len(list(pruned.parameters()))
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in MAKERS[name][0]().parameters())


def test_loading_needs_no_forward_pass(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was run")

    monkeypatch.setattr(Mixed, "forward", refuse)
    load_pruned(saved, Mixed)


def test_what_was_trained_on_is_kept(tmp_path: Path) -> None:
    pruned, plan, sites = pruned_of("mixed")
    tuned = load_pruned(save_pruned(tmp_path / "a.safetensors", pruned, plan, sites), Mixed).train()
    functional.cross_entropy(tuned(example_of("mixed")), torch.tensor([1, 2])).backward()
    torch.optim.SGD(tuned.parameters(), 0.1).step()
    path = save_pruned(tmp_path / "b.safetensors", tuned, plan, sites)
    loaded = load_pruned(path, Mixed)
    assert hash_tensors(state_of(loaded)) == hash_tensors(state_of(tuned)) != hash_tensors(state_of(pruned))
    assert int(loaded.get_buffer("bn.num_batches_tracked")) == 1


@pytest.mark.parametrize("name", ["mixed", "tied", "digits"])
def test_a_tuned_network_is_saved_with_the_record_of_its_file(name: str, tmp_path: Path) -> None:
    factory = "scionet:digits_cnn" if name == "digits" else None
    source = tmp_path / "a.safetensors"
    save_pruned(source, *pruned_of(name), factory=factory, example_inputs=example_of(name), extra={"a": 1, "b": 2})
    fresh = MAKERS[name][0]
    tuned = randomised(load_pruned(source, fresh), seed=9)
    path = save_tuned(tmp_path / "b.safetensors", tuned, source, extra={"b": 3, "c": 4})
    loaded = load_pruned(path, fresh)
    assert hash_tensors(state_of(loaded)) == hash_tensors(state_of(tuned)) != hash_tensors(state_of(pruned_of(name)[0]))
    before, after = describe(source), describe(path)
    assert after["extra"] == {"a": 1, "b": 3, "c": 4}
    changed = {key for key in before if before[key] != after[key]}
    assert changed <= {"extra", "bytes"}
    assert read_plan(path).to_json() == read_plan(source).to_json()


def test_a_network_of_another_structure_is_not_saved_as_tuned(saved: Path, tmp_path: Path) -> None:
    for other in (Mixed(), digits_cnn()):
        with pytest.raises(CheckpointError, match="plan and weights disagree"):
            save_tuned(tmp_path / "x.safetensors", other, saved)
    with pytest.raises(CheckpointError, match="exists"):
        save_tuned(saved, pruned_of("mixed")[0], saved)
    assert list(tmp_path.iterdir()) == [saved]


def test_a_tuned_network_may_replace_its_own_file(saved: Path) -> None:
    tuned = randomised(load_pruned(saved, Mixed), seed=9)
    save_tuned(saved, tuned, saved, overwrite=True)
    assert hash_tensors(state_of(load_pruned(saved, Mixed))) == hash_tensors(state_of(tuned))


def test_the_dense_network_of_a_file(tmp_path: Path) -> None:
    path = save_pruned(tmp_path / "net.safetensors", *pruned_of("digits"), factory="scionet:digits_cnn")
    found = {name: tensor.shape for name, tensor in state_of(dense_network(path)).items()}
    assert found == {name: tensor.shape for name, tensor in state_of(digits_cnn()).items()}


def test_ties_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    path = save_pruned(tmp_path / "net.safetensors", *pruned_of("tied"))
    assert set(load_file(path)) == {"first.weight", "first.bias", "last.weight", "last.bias"}
    loaded = load_pruned(path, Tied)
    assert loaded.get_parameter("again.weight") is loaded.get_parameter("first.weight")
    assert loaded.get_parameter("late.weight") is loaded.get_parameter("last.weight")


def test_network_with_more_ties_than_the_file_is_refused(tmp_path: Path) -> None:
    model = randomised(Tied())
    sites = discover(model, example_of("tied"))
    plan = plan_of(sites)
    path = save_pruned(tmp_path / "net.safetensors", cut(model, plan, sites), plan, sites)
    with pytest.raises(CheckpointError, match=r"late\.weight and last\.weight are tied here and separate in the file"):
        load_pruned(path, Tied().tie())


def test_buffers_outside_the_state_dict_are_stored(saved: Path) -> None:
    pruned, _, _ = pruned_of("mixed")
    assert not {"scale", "shift"} & pruned.state_dict().keys()
    assert set(load_file(saved)) == {*pruned.state_dict(), "scale", "shift"}


def test_file_describes_itself_to_any_reader_of_safetensors(tmp_path: Path) -> None:
    _, plan, sites = pruned_of("mixed")
    dense = state_of(randomised(Mixed()))
    choices = tuple(replace(choice, weights=(1.0,) * len(choice.kept)) for choice in plan.choices)
    plain = replace(plan, choices=choices)
    path = save_pruned(tmp_path / "net.safetensors", cut(randomised(Mixed()), plain, sites), plain, sites)
    with safe_open(path, framework="np") as file:
        record = json.loads(file.metadata()["scionet"])
        for name in file.keys():  # noqa: SIM118  the handle of safetensors is no mapping
            tensor = dense[name].detach().numpy()
            assert list(tensor.shape) == record["tensors"][name]["dense"]
            for dim, kept in record["tensors"][name]["kept"].items():
                tensor = np.take(tensor, kept, axis=int(dim))
            np.testing.assert_array_equal(file.get_tensor(name), tensor)
    assert (record["format_version"], record["requires"]) == (3, [])
    assert [pruning["plan"]["method"] for pruning in record["prunings"]] == ["forward"]


def test_replaced_tensors_of_a_plan_are_in_the_weights(tmp_path: Path) -> None:
    model = randomised(Mixed())
    sites = discover(model, example_of("mixed"))
    plan = replace(plan_of(sites), tensors={"shift": torch.tensor(0.25), "linear.bias": torch.ones(5)})
    pruned = cut(model, plan, sites)
    loaded = load_pruned(save_pruned(tmp_path / "net.safetensors", pruned, plan, sites), Mixed)
    assert float(loaded.get_buffer("shift")) == 0.25
    assert torch.equal(output(loaded, example_of("mixed")), output(pruned, example_of("mixed")))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types_are_those_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    model = randomised(Mixed()).to(dtype)
    sites = discover(model, example_of("mixed"))
    plan = plan_of(sites)
    pruned = cut(model, plan, sites)
    loaded = load_pruned(save_pruned(tmp_path / "net.safetensors", pruned, plan, sites), Mixed())
    assert {t.dtype for t in state_of(loaded).values()} == {dtype, torch.int64}
    inputs = example_of("mixed").to(dtype)
    assert torch.equal(output(loaded, inputs), output(pruned, inputs))


def test_flags_and_mode_are_those_of_the_instance(tmp_path: Path) -> None:
    pruned, plan, sites = pruned_of("mixed")
    path = save_pruned(tmp_path / "net.safetensors", pruned, plan, sites)
    fresh = Mixed().requires_grad_(False)
    fresh.bn.eval()
    loaded = load_pruned(path, fresh)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.training
    assert not fresh.bn.training
    assert all(p.requires_grad for p in load_pruned(path, Mixed()).parameters())


def test_loaded_network_does_not_depend_on_the_file(saved: Path) -> None:
    loaded = load_pruned(saved, Mixed)
    before = hash_tensors(state_of(loaded))
    with saved.open("r+b") as file:
        file.write(bytes(saved.stat().st_size))
    assert hash_tensors(state_of(loaded)) == before


@settings(max_examples=15)
@given(density=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_any_plan_comes_back(density: float, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    model, sites = randomised(Mixed()), pruned_of("mixed")[2]
    plan = plan_of(sites, density, seed)
    pruned = cut(model, plan, sites)
    path = save_pruned(tmp_path_factory.mktemp("any") / "net.safetensors", pruned, plan, sites)
    assert read_plan(path).identity == plan.identity
    assert torch.equal(output(load_pruned(path, Mixed), example_of("mixed")), output(pruned, example_of("mixed")))


def test_description(tmp_path: Path) -> None:
    pruned, plan, sites = pruned_of("digits")
    kwargs, extra = {}, {"accuracy": 0.98, "tags": ["a", None]}
    path = tmp_path / "net.safetensors"
    made = save_pruned(path, pruned, plan, sites, factory="scionet:digits_cnn", factory_kwargs=kwargs, extra=extra)
    assert made == path
    found = describe(path)
    assert found["widths"] == {c.site: (c.width, len(c.kept)) for c in plan.choices}
    sizes = [sum(t.numel() for t in net.state_dict().values()) for net in (digits_cnn(), pruned)]
    assert found["entries"] == tuple(sizes)
    assert (found["model"], found["factory"]) == ("scionet.models.resnets.DigitsNet", "scionet:digits_cnn")
    assert (found["method"], found["seed"], found["extra"]) == ("forward", 0, extra)
    assert found["dense_hash"] == sites.dense_hash
    assert found["bytes"] == path.stat().st_size
    assert (found["factory_kwargs"], found["inputs"]) == (kwargs, None)
    assert (found["prunings"], found["settings"]) == (1, plan.settings)
    assert found["versions"]["torch"] == torch.__version__
    json.dumps(found)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(2, 3, dtype=torch.float16),
        (torch.zeros(1, 3), 4, torch.ones(2, dtype=torch.bool)),
        {"shape": torch.zeros(1, dtype=torch.int64), "dtype": "text", "mask": None},
    ],
    ids=["tensor", "tuple", "dict"],
)
def test_example_inputs_come_back_as_zeros(inputs: Batch, tmp_path: Path) -> None:
    path = save_pruned(tmp_path / "net.safetensors", *pruned_of("mixed"), example_inputs=inputs)
    found = recorded_inputs(path)
    assert found is not None
    (found_args, found_kwargs), (args, kwargs) = as_arguments(found), as_arguments(inputs)
    assert found_kwargs.keys() == kwargs.keys()
    pairs = [*zip(found_args, args, strict=True), *((found_kwargs[key], kwargs[key]) for key in kwargs)]
    for blank, given_value in pairs:
        if isinstance(given_value, Tensor):
            assert torch.equal(blank, torch.zeros_like(given_value))
            assert blank.dtype == given_value.dtype
        else:
            assert blank == given_value


def test_no_example_inputs(saved: Path) -> None:
    assert recorded_inputs(saved) is None


# factories


def test_recorded_factories_of_registries_are_called(tmp_path: Path) -> None:
    pruned, plan, sites = pruned_of("digits")
    path = save_pruned(tmp_path / "net.safetensors", pruned, plan, sites, factory="scionet:digits_cnn")
    assert torch.equal(output(load_pruned(path), example_of("digits")), output(pruned, example_of("digits")))


@pytest.mark.parametrize("factory", ["torchvision:squeezenet1_1", "timm:resnet10t"])
def test_recorded_factories_get_their_arguments_and_no_weights(
    factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("weights were looked up on the network")

    model, example = build(factory, num_classes=7).eval(), torch.rand(2, 3, 64, 64)
    sites = discover(model, example)
    plan = plan_of(sites)
    pruned = cut(model, plan, sites)
    kwargs = {"num_classes": 7} | ({"pretrained": True} if factory.startswith("timm") else {})
    path = save_pruned(
        tmp_path / "net.safetensors", pruned, plan, sites, factory=factory, factory_kwargs=MappingProxyType(kwargs)
    )
    monkeypatch.setattr("socket.socket.connect", refuse)
    assert torch.equal(output(load_pruned(path), example), output(pruned, example))


def test_code_that_a_file_names_is_run_only_on_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "from pathlib import Path\nfrom scionet.models.resnets import digits_cnn\n"
    (tmp_path / "strange_nets.py").write_text(module + f"Path({str(tmp_path / 'sprung')!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    pruned, plan, sites = pruned_of("digits")
    path = save_pruned(tmp_path / "net.safetensors", pruned, plan, sites, factory="strange_nets:digits_cnn")
    with pytest.raises(CheckpointError, match=r"strange_nets:digits_cnn.*trust_factory=True"):
        load_pruned(path)
    assert not (tmp_path / "sprung").exists()
    loaded = load_pruned(path, trust_factory=True)
    assert (tmp_path / "sprung").exists()  # the trap works
    assert torch.equal(output(loaded, example_of("digits")), output(pruned, example_of("digits")))


def test_registry_must_not_read_other_files(tmp_path: Path) -> None:
    kwargs = {"checkpoint_path": str(tmp_path / "evil.pth")}
    path = tmp_path / "net.safetensors"
    save_pruned(path, *pruned_of("mixed"), factory="timm:resnet10t", factory_kwargs=kwargs)
    with pytest.raises(CheckpointError, match="another architecture"):
        load_pruned(path)


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [
        (None, CheckpointError, r"names no factory; pass model, a fresh instance of .*Mixed"),
        ("scionet:resnet21", InvalidSetting, "resnet20"),
        ("scionet:resnet20", CheckpointError, "another architecture"),
        ("collections:OrderedDict", UnsupportedModel, "returned a OrderedDict"),
    ],
)
def test_factory_that_does_not_help(factory: str | None, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = save_pruned(tmp_path / "net.safetensors", *pruned_of("mixed"), factory=factory)
    with pytest.raises(error, match=message):
        load_pruned(path, trust_factory=True)


def test_malformed_factory_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"timm:NAME.*given 'resnet18'"):
        save_pruned(tmp_path / "net.safetensors", *pruned_of("mixed"), factory="resnet18")
    assert list(tmp_path.iterdir()) == []


# files that cannot be loaded


@pytest.mark.parametrize("read", [lambda p: load_pruned(p, Mixed), read_plan, describe, recorded_inputs])
def test_unreadable_files_are_refused_by_every_reader(read: Callable[[Path], object], saved: Path) -> None:
    content = saved.read_bytes()
    with pytest.raises(CheckpointError, match=r"there is no file .*other\.safetensors"):
        read(saved.with_name("other.safetensors"))
    with pytest.raises(CheckpointError, match="there is no file"):
        read(saved.parent)
    for length in (0, 5, 1000, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"net\.safetensors is truncated, unreadable or not a safetensors"):
            read(saved)
    saved.write_bytes(b"\x80\x04this is not a tensor file" * 100)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read(saved)
    save_file({"stem.weight": torch.zeros(8, 3, 3, 3)}, saved)
    with pytest.raises(CheckpointError, match=r"net\.safetensors contains no pruned network, .* save_pruned of this"):
        read(saved)


def test_every_changed_byte_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content), 150).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_pruned(saved, Mixed)
    saved.write_bytes(content)
    load_pruned(saved, Mixed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format_version": 4},
            r"has format version 4; .* reads 3\. It was written by a newer scionet: pip install -U",
        ),
        ({"format_version": 4, "prunings": None, "new": 1}, r"format version 4"),
        ({"format_version": 2}, r"has format version 2; .* reads 3\. .* save the network again"),
        ({"format_version": "3"}, r"manifest\.format_version must be of type int; given '3'"),
        ({"requires": ["widths_inside_heads"]}, r"'widths_inside_heads'\)\. It was written by a newer scionet"),
        ({"widths_inside_heads": {}}, r"'widths_inside_heads'\)\. It was written by a newer scionet"),
        ({"prunings": []}, r"manifest\.prunings must have one entry or more"),
        ({"prunings": [{}]}, r"manifest\.prunings\[0\]\.plan is missing"),
        ({"tensors": {"stem.weight": 3}}, r"manifest\.tensors\.stem\.weight must be of type dict; given 3"),
        ({"tied": {"linear.bias": "stem.weight"}}, r"tied names 'stem\.weight' as the home of 'linear\.bias'"),
        ({"inputs": {"args": [], "kwargs": {}}}, r"manifest\.inputs: example inputs must be"),
        ({"inputs": {"args": [{"shape": [2**20, 2**20], "dtype": "float32"}], "kwargs": {}}}, r"at most 1,073,741,824"),
        ({"inputs": {"args": [{"shape": [1], "dtype": "nn"}], "kwargs": {}}}, r"dtype must name a type of torch"),
    ],
)
def test_other_formats_are_refused(change: dict[str, Any], message: str, saved: Path) -> None:
    reseal(saved, "scionet", json.dumps({**json.loads(header_of(saved)), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_pruned(saved, Mixed)


def resaved(path: Path, tensors: dict[str, Tensor]) -> None:
    """Other tensors with the metadata of a file."""
    save_file(tensors, path, metadata_of(path))


def test_weights_of_another_plan_are_refused(saved: Path) -> None:
    _, _, sites = pruned_of("mixed")
    wide = cut(randomised(Mixed()), plan_of(sites, 0.75), sites)
    resaved(saved, state_of(wide))
    with pytest.raises(CheckpointError, match=r"plan and weights disagree \(back.bias is \(6,\), by the plan \(4,\)"):
        load_pruned(saved, Mixed, strict=False)


def test_weights_of_the_same_shapes_are_refused_unless_they_are_wanted(saved: Path) -> None:
    other, _, _ = pruned_of("mixed", seed=1)
    resaved(saved, state_of(other))
    with pytest.raises(CheckpointError, match="is damaged: its tensors do not match their checksum"):
        load_pruned(saved, Mixed)
    loaded = load_pruned(saved, Mixed, strict=False)
    assert hash_tensors(loaded.state_dict()) == hash_tensors(other.state_dict())


def test_missing_and_additional_tensors_are_refused(saved: Path) -> None:
    tensors = load_file(saved)
    del tensors["stem.weight"]
    resaved(saved, {**tensors, "more": torch.zeros(1)})
    message = r"more is \(1,\), by the plan missing; stem.weight is missing, by the plan \(4, 3, 3, 3\)"
    with pytest.raises(CheckpointError, match=message):
        load_pruned(saved, Mixed, strict=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixed(7), r"linear\.bias is \(7,\), in the file \(5,\); linear\.weight is \(7, 128\), in the file"),
        (digits_cnn, r"given DigitsNet has another architecture .*; and \d+ more"),
        (lambda: Stranger(1, 1), "_extra_state is in its state dict, but is not a tensor"),
        (lambda: pruned_of("mixed")[0], r"back\.bias is \(4,\), in the file \(8,\).*fresh, unpruned instance"),
    ],
)
def test_other_architectures_are_refused_and_left_alone(
    make: Callable[[], nn.Module], message: str, saved: Path
) -> None:
    model = make()
    before = hash_tensors(state_of(model))
    with pytest.raises(CheckpointError, match=message):
        load_pruned(saved, model)
    assert hash_tensors(state_of(model)) == before


def test_networks_without_memory_are_refused(saved: Path) -> None:
    with torch.device("meta"):
        on_meta = Mixed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch once warned of lazy layers
        lazy = nn.LazyLinear(3)
    for model in (on_meta, lazy):
        with pytest.raises(CheckpointError, match="without memory"):
            load_pruned(saved, model)


def test_model_must_be_a_network(saved: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"torch\.nn\.Module or a function that returns one; given 'Mixed'"):
        load_pruned(saved, lambda: "Mixed")  # pyright: ignore[reportArgumentType]


# files that cannot be written


def test_existing_file_is_kept_unless_it_may_be_replaced(saved: Path) -> None:
    before = saved.read_bytes()
    made = pruned_of("mixed", seed=1)
    with pytest.raises(CheckpointError, match=r"net\.safetensors exists; .*overwrite=True"):
        save_pruned(saved, *made)
    assert saved.read_bytes() == before
    save_pruned(saved, *made, overwrite=True)
    assert torch.equal(output(load_pruned(saved, Mixed), example_of("mixed")), output(made[0], example_of("mixed")))
    assert list(saved.parent.iterdir()) == [saved]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The operating system refuses to write more bytes to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    with (
        files_up_to(1000),
        pytest.raises(CheckpointError, match=r"cannot write .*net\.safetensors: File too large; give"),
    ):
        save_pruned(saved, *pruned_of("mixed", seed=1), overwrite=True)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_interruption_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        assert len(list(saved.parent.iterdir())) == 2  # the temporary file is there
        raise KeyboardInterrupt

    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_pruned(saved, *pruned_of("mixed", seed=1), overwrite=True)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("net.pt", InvalidSetting, r"must end in \.safetensors; given .*net\.pt"),
        ("missing/net.safetensors", CheckpointError, r"cannot write .*: No such file or directory"),
        ("file/net.safetensors", CheckpointError, r"cannot write .*: Not a directory"),
        ("folder.safetensors", CheckpointError, r"is a folder"),
        ("n" * 250 + ".safetensors", CheckpointError, r"cannot write .*: File name too long"),
    ],
)
def test_paths_that_cannot_be_written(name: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(error, match=message):
        save_pruned(tmp_path / name, *pruned_of("mixed"), overwrite=True)
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder.safetensors"}


@pytest.mark.skipif(os.geteuid() == 0, reason="the root user may write everywhere")
def test_folder_that_is_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="Permission denied; give a path in a writable folder"):
        save_pruned(tmp_path / "net.safetensors", *pruned_of("mixed"))


@pytest.mark.parametrize("target_exists", [True, False])
def test_symbolic_link_stays_a_link(target_exists: bool, tmp_path: Path) -> None:
    link, target = tmp_path / "link.safetensors", tmp_path / "folder" / "target.safetensors"
    target.parent.mkdir()
    link.symlink_to(target)
    if target_exists:
        target.write_bytes(b"old")
    save_pruned(link, *pruned_of("mixed"), overwrite=target_exists)
    assert link.is_symlink()
    assert list(target.parent.iterdir()) == [target]
    assert hash_tensors(load_pruned(target, Mixed).state_dict()) == hash_tensors(pruned_of("mixed")[0].state_dict())


def test_file_can_be_read_as_other_new_files(saved: Path) -> None:
    (saved.parent / "other").touch()
    assert saved.stat().st_mode == (saved.parent / "other").stat().st_mode


# networks that cannot be saved


def dense() -> Made:
    _, plan, sites = pruned_of("mixed")
    return Mixed(), plan, sites


def other_architecture() -> Made:
    return pruned_of("digits")[0], *pruned_of("mixed")[1:]


def other_plan() -> Made:
    pruned, _, sites = pruned_of("mixed")
    return pruned, pruned_of("digits")[1], sites


def other_state() -> Made:
    model = nn.Sequential(nn.Linear(2, 4), Stranger(4, 2))
    sites = discover(model, torch.zeros(1, 2))
    plan = plan_of(sites)
    return cut(model, plan, sites), plan, sites


def complex_numbers() -> Made:
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    model.register_buffer("waves", torch.zeros(2, dtype=torch.complex128))
    sites = discover(model, torch.zeros(1, 2))
    plan = plan_of(sites)
    return cut(model, plan, sites), plan, sites


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (dense, CheckpointError, r"plan and weights disagree \(back\.bias is \(8,\), by the plan \(4,\)"),
        (
            other_architecture,
            CheckpointError,
            r"in the network or in the sites but not in both.*give the network that cut\(\) returned",
        ),
        (other_plan, InvalidSetting, "no such site"),
        (other_state, CheckpointError, r"1\._extra_state.*neither a parameter nor a buffer"),
        (complex_numbers, CheckpointError, "complex128"),
    ],
)
def test_networks_that_cannot_be_saved(
    make: Callable[[], Made], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        save_pruned(tmp_path / "net.safetensors", *make())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["extra", "factory_kwargs"])
def test_records_that_are_no_json_are_refused(what: str, tmp_path: Path) -> None:
    records: dict[str, Any] = {what: {"when": {1, 2}}}
    with pytest.raises(
        CheckpointError, match=r"cannot hold the pruned network: record\.\w+\.when is a set; .* lists and objects"
    ):
        save_pruned(tmp_path / "net.safetensors", *pruned_of("mixed"), factory="a:b", **records)
    assert list(tmp_path.iterdir()) == []
