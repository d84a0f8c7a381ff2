"""Networks without some branches: cut equals masked, and nothing of a dropped branch is left."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dropping import Dropped, dropping_plan, masked_and_dropped, random_drop
from support.masking import Kept, randomise, relative
from support.small_networks import Net, conv, image, residual
from torch import Tensor, nn
from torch.nn import functional

from scionet.budget.costs import CostModel, measure
from scionet.errors import InvalidSetting
from scionet.models.factory import build, import_torchvision
from scionet.models.resnets import digits_cnn
from scionet.network.branches import Branch, remaining
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.operations import run_operations
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut
from scionet.network.surgery.stand_ins import Constant, Skipped
from scionet.network.surgery.verification import verify

EXACT = 1e-10
VISIBLE = 1e-6
relu = functional.relu


def resnet50() -> nn.Module:
    models = import_torchvision().models
    return models.ResNet(models.resnet.Bottleneck, [2, 2, 2, 1], num_classes=10, width_per_group=16)


def mobilenet() -> nn.Module:
    models = import_torchvision().models
    return models.MobileNetV2(10, inverted_residual_setting=[[1, 16, 1, 1], [3, 24, 2, 2], [3, 32, 3, 2]])


def vit() -> nn.Module:
    models = import_torchvision().models
    return models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=10
    )


def swin(version: str = "SwinTransformerBlock") -> nn.Module:
    models = import_torchvision().models
    return models.SwinTransformer(
        patch_size=[4, 4],
        window_size=[4, 4],
        depths=[2, 2],
        num_heads=[2, 4],
        embed_dim=16,
        mlp_ratio=2.0,
        num_classes=10,
    )


def timm_swin() -> nn.Module:
    settings: dict[str, Any] = {"img_size": 32, "window_size": 4, "depths": (2, 2), "num_heads": (2, 4)}
    return build("timm:swin_tiny_patch4_window7_224", **settings, embed_dim=16, num_classes=10)


def timm_vit() -> nn.Module:
    settings = {"img_size": 32, "depth": 2, "num_classes": 10, "init_values": 0.5, "embed_dim": 24, "num_heads": 3}
    return build("timm:vit_tiny_patch16_224", **settings)


def timm_convnext() -> nn.Module:
    return build("timm:convnext_atto", depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), num_classes=10)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    patches = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.Flatten(2))
    return Net(
        lambda m, x: m.head(relu(m.hidden(m.layers(m.patches(x).mT).mean(1)))),
        patches=patches,
        layers=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        hidden=nn.Linear(16, 8),
        head=nn.Linear(8, 4),
    )


SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (lambda: build("scionet:resnet20"), 9),
    "digits": (digits_cnn, 3),
    "resnet50": (resnet50, 7),
    "mobilenet_v2": (mobilenet, 3),
    "vit": (vit, 4),
    "timm_vit": (timm_vit, 4),
    "swin": (swin, 8),
    "timm_swin": (timm_swin, 8),
    "timm_convnext": (timm_convnext, 4),
    "encoder": (encoder, 4),
}
LARGE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet56": (lambda: build("scionet:resnet56"), 27),
    "resnet50": (lambda: build("torchvision:resnet50"), 16),
    "mobilenet_v2": (lambda: build("torchvision:mobilenet_v2"), 10),
    "efficientnet_b0": (lambda: build("torchvision:efficientnet_b0"), 9),
    "regnet_y_400mf": (lambda: build("torchvision:regnet_y_400mf"), 16),
    "resnet50d": (lambda: build("timm:resnet50d"), 16),
    "vit_tiny": (lambda: build("timm:vit_tiny_patch16_224", img_size=32), 24),
    "convnext_tiny": (lambda: build("torchvision:convnext_tiny"), 18),
}


@cache
def known(name: str, large: bool = False) -> tuple[nn.Module, Sites, Tensor]:
    torch.manual_seed(0)
    make, count = (LARGE if large else SMALL)[name]
    model = randomise(make())
    x = torch.randn(2, 1, 8, 8) if name == "digits" else torch.randn(2, 3, 32, 32)
    sites = discover(model, x.double())
    assert len(sites.branches) == count
    return model, sites, x.double()


def random_kept(sites: Sites, rng: np.random.Generator) -> dict[str, list[int]]:
    widths = {name: site.width for name, site in sites.items() if rng.random() < 0.7}
    return {name: sorted(rng.permutation(n)[: rng.integers(1, n + 1)].tolist()) for name, n in widths.items()}


def check(name: str, kept: Kept, dropped: Dropped, large: bool = False) -> None:
    """Masked equals cut, the mask shows, and the costs are those that were predicted."""
    model, sites, x = known(name, large)
    plan = dropping_plan(sites, kept, dropped)
    pruned = cut(model, plan, sites)
    with torch.no_grad():
        dense = model(x)
        with masked_and_dropped(model, sites, plan.kept, dropped):
            expected = model(x)
        assert not dropped or relative(dense, expected) > VISIBLE
        assert relative(expected, pruned(x)) <= EXACT
    assert verify(model, plan, sites, pruned, x) <= EXACT
    found, predicted = measure(pruned, x), CostModel(remaining(sites, dropped)).cost(plan.widths)
    assert found.params == predicted.params
    assert found.macs == pytest.approx(predicted.macs, rel=1e-12)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_cut_is_masked_for_random_branches_and_widths(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, sites, _ = known(name)
    check(name, random_kept(sites, rng), random_drop(sites, rng))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("with_constants", [False, True])
def test_all_branches_can_be_dropped_together(name: str, with_constants: bool) -> None:
    _, sites, _ = known(name)
    dropped = {
        n: torch.linspace(-1, 2, b.channels).double() if with_constants else None for n, b in sites.branches.items()
    }
    check(name, {}, dropped)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_cut_is_masked_in_large_networks(name: str) -> None:
    _, sites, _ = known(name, large=True)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        check(name, random_kept(sites, rng), random_drop(sites, rng), large=True)


# -- what a dropped branch computes, written down by hand --------------------------------------------------------------


class Written(nn.Module):
    """A residual block whose branch is a constant."""

    def __init__(self, constant: Tensor, shortcut: nn.Module) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.register_buffer("c", constant.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.get_buffer("c") + self.shortcut(x))


@pytest.mark.parametrize("block", ["layer1.1", "layer2.0", "layer3.2"])
def test_a_dropped_block_is_a_constant_plus_its_shortcut(block: str) -> None:
    model, sites, x = known("resnet20")
    constant = torch.randn(sites.branches[block].channels, dtype=torch.float64)
    by_hand = copy.deepcopy(model)
    stage, number = block.split(".")
    by_hand.get_submodule(stage)[int(number)] = Written(constant, by_hand.get_submodule(f"{block}.shortcut"))
    pruned = cut(model, Plan((), dropped={block: constant}), sites)
    with torch.no_grad():
        assert relative(by_hand(x), pruned(x)) <= EXACT
    assert measure(pruned, x).macs == measure(by_hand, x).macs


def test_a_dropped_attention_is_a_constant_for_each_token() -> None:
    model, sites, x = known("vit")
    name = "encoder.layers.encoder_layer_1.self_attention"
    constant = torch.randn(16, dtype=torch.float64)
    by_hand = copy.deepcopy(model)
    block = by_hand.get_submodule("encoder.layers.encoder_layer_1")
    block.forward = lambda x: (x + constant) + block.mlp(block.ln_2(x + constant))  # type: ignore[method-assign]
    pruned = cut(model, Plan((), dropped={name: constant}), sites)
    with torch.no_grad():
        assert relative(by_hand(x), pruned(x)) <= EXACT


# -- what is left ------------------------------------------------------------------------------------------------------


def dropped_all(name: str, constant: bool = True) -> tuple[nn.Module, Sites, Tensor]:
    model, sites, x = known(name)
    plan = Plan((), dropped={n: torch.ones(b.channels) if constant else None for n, b in sites.branches.items()})
    return cut(model, plan, sites), sites, x


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_parameters_buffers_and_submodules_are_gone(name: str, constant: bool) -> None:
    pruned, sites, _ = dropped_all(name, constant)
    for branch in sites.branches.values():
        inside = [key for key in state_of(pruned) if branch.removal.takes(key)]
        assert inside == [branch.constant]
        assert (branch.constant in dict(pruned.named_parameters())) == constant
        assert (branch.constant in pruned.state_dict()) == constant
        for path in branch.modules:
            module = pruned.get_submodule(path)
            assert type(module) is (Constant if path == branch.output else Skipped)
            assert not list(module.children())


def test_no_operation_is_left_in_the_modules_but_those_of_the_constant() -> None:
    pruned, sites, x = dropped_all("resnet50")
    left = [
        each for each in run_operations(Network(pruned), x) if any(map(inside(each.module), sites.branches.values()))
    ]
    assert {each.operator for each in left} == {"new_zeros", "expand", "clone", "view"}
    assert not any(each.macs for each in left)


def inside(module: str) -> Callable[[Branch], bool]:
    return lambda branch: branch.removal.takes(module)


def test_a_layer_scale_in_the_forward_of_a_block_goes_too() -> None:
    pruned, sites, _ = dropped_all("timm_convnext")
    scales = [name for branch in sites.branches.values() for name in branch.removal.loose]
    assert len(scales) == 4
    assert not set(scales) & set(dict(pruned.named_parameters()))
    assert not set(scales) & pruned.state_dict().keys()
    assert all(pruned.get_buffer(name).tolist() == [1.0] for name in scales)


def test_attributes_and_hooks_of_modules_stay() -> None:
    calls: list[tuple[int, ...]] = []
    model = residual().double()
    model.get_submodule("b1").register_forward_hook(lambda _m, _a, out: calls.append(tuple(out.shape)))
    x = image(dtype=torch.float64)
    sites = discover(model, x)
    calls.clear()
    pruned = cut(model, Plan((), dropped={"b1": None}), sites)
    pruned(x)
    assert calls == [(2, 6, 8, 8)]
    assert pruned.get_submodule("b1").out_channels == 6
    assert pruned.get_submodule("b1").bias is None


def test_the_dense_network_is_untouched() -> None:
    model, _, _ = known("mobilenet_v2")
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    dropped_all("mobilenet_v2")
    assert all(torch.equal(before[name], tensor) for name, tensor in state_of(model).items())
    assert not any(isinstance(module, Skipped) for module in model.modules())


# -- where the cut network runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40)])
def test_other_sizes_of_images(size: tuple[int, int]) -> None:
    for name in ("resnet20", "resnet50", "digits"):
        model, sites, _ = known(name)
        dropped = {n: torch.randn(b.channels, dtype=torch.float64) for n, b in sites.branches.items()}
        plan = Plan((), dropped=dropped)
        x = torch.randn(3, 1 if name == "digits" else 3, *size, dtype=torch.float64)
        assert verify(model, plan, sites, cut(model, plan, sites), x) <= EXACT


@pytest.mark.parametrize(("padding", "kernel", "stride"), [(0, 2, 2), (1, 3, 2), (2, 5, 3), (0, 1, 2), (3, 7, 4)])
def test_sizes_follow_the_convolutions_of_the_branch(padding: int, kernel: int, stride: int) -> None:
    settings: dict[str, Any] = {"stride": stride, "padding": padding}

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head((m.b(relu(m.a(x))) + m.projection(x)).mean((2, 3)))

    model = Net(
        forward,
        stem=conv(3, 4),
        a=nn.Conv2d(4, 5, kernel, **settings),
        b=conv(5, 6),
        projection=nn.Conv2d(4, 6, kernel, **settings),
        head=nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)),
    ).double()
    sites = discover(model.eval(), image(size=17, dtype=torch.float64))
    plan = Plan((), dropped={"b": torch.randn(6, dtype=torch.float64)})
    for size in range(15, 26):
        verify(model, plan, sites, cut(model, plan, sites), image(size=size, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_types(dtype: torch.dtype) -> None:
    pruned, _, x = dropped_all("resnet50")
    with torch.no_grad():
        out = copy.deepcopy(pruned).to(dtype)(x.to(dtype))
        assert out.dtype == dtype
        assert relative(pruned(x), out.double()) < {torch.float32: 1e-5}.get(dtype, 0.1)


def test_autocast_keeps_the_type_of_the_stream() -> None:
    pruned, sites, x = dropped_all("resnet50")
    pruned, seen = copy.deepcopy(pruned).float(), set[torch.dtype]()
    for branch in sites.branches.values():
        pruned.get_submodule(branch.output).register_forward_hook(lambda _m, _a, out: seen.add(out.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = pruned(x.float())
        assert seen == {torch.bfloat16}
    with torch.no_grad():
        assert relative(pruned(x.float()), out.float()) < 0.1


def test_images_in_the_channels_last_format_stay_so() -> None:
    pruned, sites, x = dropped_all("resnet50")
    made: list[Tensor] = []
    for branch in sites.branches.values():
        pruned.get_submodule(branch.output).register_forward_hook(lambda _m, _a, out: made.append(out))
    with torch.no_grad():
        out = pruned.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
        assert all(each.is_contiguous(memory_format=torch.channels_last) for each in made)
        assert relative(dropped_all("resnet50")[0](x), out) <= EXACT


@pytest.mark.parametrize("name", ["vit", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet50", "timm_swin"))])
def test_a_compiled_network_computes_the_same(name: str) -> None:
    pruned, _, x = dropped_all(name)
    compiled: Any = torch.compile(pruned, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert relative(pruned(x), compiled(x)) <= EXACT


def test_the_constant_is_trained_and_zeros_are_not() -> None:
    pruned, sites, x = dropped_all("resnet50")
    pruned.train()(x).square().mean().backward()
    constants = [pruned.get_parameter(branch.constant) for branch in sites.branches.values()]
    assert all(constant.grad is not None and bool(constant.grad.abs().max() > 0) for constant in constants)
    assert all(parameter.grad is not None for parameter in pruned.parameters())


def test_copies_and_state_dicts() -> None:
    pruned, _, x = dropped_all("timm_swin")
    again = copy.deepcopy(pruned)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
        again.load_state_dict(pruned.state_dict())
        assert torch.equal(pruned(x), again(x))


def test_a_network_that_was_cut_can_be_cut_again() -> None:
    model, sites, x = known("resnet50")
    first = {"layer1.1": torch.randn(256, dtype=torch.float64), "layer2.0": None}
    once = cut(model, dropping_plan(sites, {"conv1": [0, 2, 5], "layer1.0.conv3": [*range(0, 256, 3)]}, first), sites)
    again = discover(once, x)
    assert len(again.branches) == 5
    second = {"layer3.1": torch.randn(1024, dtype=torch.float64)}
    rng = np.random.default_rng(0)
    kept = {name: sorted(rng.permutation(s.width)[: s.width // 2 + 1].tolist()) for name, s in again.items()}
    plan = dropping_plan(again, kept, second)
    twice = cut(once, plan, again)
    assert verify(once, plan, again, twice, x) <= EXACT
    stream = again.branches["layer1.0"].streams
    assert stream
    assert len(twice.get_parameter("layer1.1.bn3.constant")) < len(once.get_parameter("layer1.1.bn3.constant")) < 256


# -- plans that do not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (lambda: Plan((), dropped={"b3": None}), "unknown residual branch 'b3'; allowed: b1, b2"),
        (lambda: Plan((), dropped={"b1": torch.ones(5)}), "branch 'b1' has 6 channels; given a constant of 5"),
        (
            lambda: Plan((Choice("a1", 5, (0,), (1.0,)),), dropped={"b1": None}),
            "site 'a1' has no units to choose: without the dropped branches, nothing makes or reads them",
        ),
        (lambda: Plan((), dropped={"b1": torch.ones(6, 1)}), "one finite number for each channel"),
        (lambda: Plan((), dropped={"b1": torch.full((6,), torch.nan)}), "one finite number for each channel"),
    ],
)
def test_plans_that_do_not_fit(plan: Callable[[], Plan], message: str) -> None:
    model = residual()
    with pytest.raises(InvalidSetting, match=message):
        cut(model, plan(), discover(model, image()))


def test_a_branch_inside_a_dropped_one_is_refused() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Sequential(conv(6, 5), nn.ReLU(), conv(5, 6)), conv(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x + self.body(x))

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head(x + m.outer(x))

    model = Net(forward, stem=conv(3, 6), outer=Inner(), head=conv(6, 2))
    sites = discover(model.eval(), image())
    with pytest.raises(InvalidSetting, match=r"one of the branches 'outer\.body' and 'outer' lies in the other"):
        cut(model, Plan((), dropped={"outer.body": None, "outer": None}), sites)
