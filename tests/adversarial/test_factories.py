"""Factories that files name: no weights are loaded, nothing is downloaded, little is allocated, every error is ours."""

import resource
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.masking import plan_of
from torch import Tensor, nn

from scionet.errors import CheckpointError, InvalidSetting, PruneError
from scionet.models.factory import build, weights_off
from scionet.models.resnets import digits_cnn
from scionet.network.calling import state_of
from scionet.network.checkpoints.checkpoint import dense_network, load_pruned, save_pruned
from scionet.network.checkpoints.manifest import Manifest
from scionet.network.discovery.discover import discover
from scionet.network.lineage import Lineage, Pruning
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut

GIB = 2**30
DETECTORS = [
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
    "torchvision:ssdlite320_mobilenet_v3_large",
    "torchvision:lraspp_mobilenet_v3_large",
    "torchvision:keypointrcnn_resnet50_fpn",
    "torchvision:deeplabv3_resnet50",
]
ON: dict[str, Any] = {
    "pretrained": True,
    "weights": "DEFAULT",
    "weights_backbone": "IMAGENET1K_V1",
    "pretrained_backbone": True,
    "encoder_weights": "imagenet",
    "use_pretrained_backbone": True,
    "pretrained_cfg": {"url": "https://example.org/evil.pth", "hf_hub_id": "evil/evil"},
    "pretrained_cfg_overlay": {"file": "/tmp/evil.pth"},
    "pretrained_model_name_or_path": "evil/evil",
    "checkpoint_path": "/tmp/evil.pth",
    "init_ckpt": "evil",
}


@cache
def made() -> tuple[nn.Module, Plan, Sites]:
    """A pruned network, its plan and its sites."""
    sites = discover(digits_cnn(), torch.zeros(2, 1, 8, 8))
    plan = plan_of(sites, {name: range(max(1, site.width // 2)) for name, site in sites.items()})
    return cut(digits_cnn(), plan, sites), plan, sites


def named(folder: Path, factory: str, kwargs: dict[str, Any]) -> Path:
    """A file with the weights of `made` that names any factory."""
    return save_pruned(folder / "net.safetensors", *made(), factory=factory, factory_kwargs=kwargs, overwrite=True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Whom the network was asked for; a failure inside a factory would be taken for one of the factory's own."""
    asked: list[object] = []

    def refuse(*args: object, **_kwargs: object) -> None:
        asked.append(args)
        raise OSError("there is no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    return asked


@pytest.fixture
def memory() -> Iterator[None]:
    """The process may take at most a GiB more at its peak than before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < GIB


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An installed module of a user, whose functions record how they were called."""
    module = ModuleType("hostile_nets")
    monkeypatch.setitem(sys.modules, "hostile_nets", module)
    return module


@pytest.mark.parametrize("factory", DETECTORS)
@pytest.mark.parametrize("kwargs", [{}, {"weights": "DEFAULT"}, {"weights_backbone": "DEFAULT"}], ids=str)
def test_detectors_load_no_weights_of_backbones(
    tmp_path: Path, calls: list[object], factory: str, kwargs: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match="another architecture"):
        load_pruned(named(tmp_path, factory, kwargs))
    assert calls == []


def test_a_detector_that_is_built_by_its_name_downloads_nothing(calls: list[object]) -> None:
    assert isinstance(build(DETECTORS[0]), nn.Module)
    assert calls == []


@pytest.mark.parametrize("factory", ["torchvision:resnet18", "timm:resnet10t", "scionet:digits_cnn"])
@pytest.mark.parametrize("name", ON)
@pytest.mark.parametrize("trust", [False, True])
def test_weights_are_off_in_registries(
    tmp_path: Path, calls: list[object], factory: str, name: str, trust: bool
) -> None:
    with pytest.raises((CheckpointError, InvalidSetting)):
        load_pruned(named(tmp_path, factory, {"num_classes": 3, name: ON[name]}), trust_factory=trust)
    assert calls == []


@pytest.mark.parametrize("name", ON)
def test_weights_are_off_in_functions_that_are_trusted(tmp_path: Path, library: ModuleType, name: str) -> None:
    seen: list[dict[str, Any]] = []

    def by_keywords(**kwargs: Any) -> nn.Module:
        seen.append(kwargs)
        return digits_cnn()

    library.by_keywords = by_keywords
    exec(
        f"def by_default({name}={ON[name]!r}, *, deep=None): return by_keywords({name}={name}, deep=deep)",
        vars(library),
    )
    load_pruned(named(tmp_path, "hostile_nets:by_keywords", {name: ON[name]}), trust_factory=True)
    load_pruned(named(tmp_path, "hostile_nets:by_default", {"deep": [{name: ON[name]}]}), trust_factory=True)
    assert not any(found[name] for found in seen)
    assert seen[1]["deep"] == [{name: seen[0][name]}]
    assert len(seen) == 2


def test_what_only_sounds_like_weights_stays() -> None:
    kept = {"num_classes": 3, "pretrained_window_sizes": [12, 6], "class_weights": [0.5, 2.0], "weight_decay": 0.1}
    assert weights_off(digits_cnn, kept) == kept


class Buffered(nn.Module):
    """A network with a buffer that no file holds and an attribute that is a tensor, both computed when it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("scale", torch.linspace(1, 2, 4), persistent=False)
        self.shift = torch.arange(4.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x * self.scale + self.shift).relu())


def test_tensors_that_are_not_stored_are_computed(
    tmp_path: Path, library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.Buffered = Buffered
    monkeypatch.setattr("scionet.network.checkpoints.checkpoint.REGISTRIES", ("hostile_nets",))
    model, x = Buffered(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    sites = discover(model, x)
    plan = plan_of(sites, {name: range(3) for name in sites})
    pruned = cut(model, plan, sites)
    loaded = load_pruned(save_pruned(tmp_path / "n.safetensors", pruned, plan, sites, factory="hostile_nets:Buffered"))
    assert not any(tensor.is_meta for tensor in state_of(loaded).values())
    assert torch.equal(loaded(x), pruned(x))


def needs_numbers(**_kwargs: Any) -> nn.Module:
    """A network whose widths are computed with tensors."""
    return nn.Linear(4, int(torch.ones(3).sum().item()))


def makes_many(depth: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(1, 1) for _ in range(depth)))


def allocates_elsewhere(size: int) -> nn.Module:
    return nn.Linear(size, size, device="cpu")


def hides_much(size: int) -> nn.Module:
    model = digits_cnn()
    model.hidden = [torch.zeros(size, size)]
    return model


def leaves(**_kwargs: Any) -> nn.Module:
    raise SystemExit(3)


def recurses(**kwargs: Any) -> nn.Module:
    return recurses(**kwargs)


@pytest.mark.parametrize(
    ("function", "kwargs"),
    [
        (needs_numbers, {}),
        (makes_many, {"depth": 10**6}),
        (allocates_elsewhere, {"size": 10**6}),
        (hides_much, {"size": 10**6}),
        (leaves, {}),
        (recurses, {}),
    ],
)
def test_what_cannot_be_built_safely_is_refused_without_trust(
    tmp_path: Path,
    library: ModuleType,
    memory: None,
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., nn.Module],
    kwargs: dict[str, Any],
) -> None:
    library.make = function
    monkeypatch.setattr("scionet.network.checkpoints.checkpoint.REGISTRIES", ("hostile_nets",))
    with pytest.raises(CheckpointError, match=r"cannot be called safely.*trust_factory=True"):
        load_pruned(named(tmp_path, "hostile_nets:make", kwargs))


def test_what_cannot_be_built_on_the_meta_device_is_built_on_trust(tmp_path: Path, library: ModuleType) -> None:
    library.make = needs_numbers
    model = dense_network(named(tmp_path, "hostile_nets:make", {}), trust_factory=True)
    assert model.get_parameter("weight").shape == (3, 4)


def test_a_dense_network_out_of_proportion_is_not_built(tmp_path: Path, memory: None) -> None:
    path = named(tmp_path, "scionet:digits_cnn", {})
    manifest, tensors = Manifest.read(path)
    lineage, name = manifest.lineage, "linear.weight"
    classes, inputs = lineage.shapes[name]
    (pruning,) = lineage.prunings
    choice = Choice("classes", 10**9, tuple(range(classes)), (1.0,) * classes)
    hostile = Lineage(
        prunings=(
            Pruning(
                replace(pruning.plan, choices=(*pruning.plan.choices, choice)),
                {**pruning.slots, "classes": ((name, 0, 1), ("linear.bias", 0, 1))},
            ),
        ),
        shapes={**lineage.shapes, name: (10**9, inputs), "linear.bias": (10**9,)},
        kept={
            **lineage.kept,
            name: {**lineage.kept[name], 0: choice.kept},
            "linear.bias": {0: choice.kept},
        },
        dense_hash=lineage.dense_hash,
    )
    replace(manifest, lineage=hostile, factory_kwargs={"classes": 10**6}).save(path, tensors, overwrite=True)
    with pytest.raises(CheckpointError, match="at most 100 times as many"):
        load_pruned(path)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([10**6, 10**9, 2**31, 2**63, 10**30, -1, 0, 1e300, 0.5])
    | st.sampled_from(["", "DEFAULT", "7", "nn.Linear", "\x1b[2J", "x" * 10_000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "weights"]), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(
    "num_classes classes in_chans in_channels depth num_layers layers block img_size embed_dim drop_rate act_layer "
    "norm_layer device dtype factory name model_name self kwargs".split()
)
FACTORIES = [
    "scionet:digits_cnn",
    "scionet:resnet20",
    "timm:resnet10t",
    "timm:vit_tiny_patch16_224",
    "torchvision:squeezenet1_1",
    "torchvision:mobilenet_v2",
]


def refusal(load: Callable[[], nn.Module]) -> str:
    """What an error of ours says; nothing where there is none."""
    try:
        load()
    except PruneError as error:
        return str(error)
    return ""


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(factory=st.sampled_from(FACTORIES), kwargs=st.dictionaries(NAMES, VALUES, min_size=1, max_size=3))
def test_any_arguments_load_or_are_an_error_of_ours(
    tmp_path: Path, memory: None, calls: list[object], factory: str, kwargs: dict[str, Any]
) -> None:
    message = refusal(lambda: load_pruned(named(tmp_path, factory, kwargs)))
    assert len(message) < 3000
    assert message.isprintable()
    assert calls == []


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("number", [10**6, 10**9, 10**18, -5])
def test_absurd_widths_neither_allocate_nor_fail_raw(tmp_path: Path, memory: None, factory: str, number: int) -> None:
    name = "classes" if factory.startswith("scionet") else "num_classes"
    with pytest.raises(CheckpointError):
        load_pruned(named(tmp_path, factory, {name: number}))
