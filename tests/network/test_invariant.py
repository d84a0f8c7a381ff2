"""The central invariant: the cut network computes what the masked network computes, at every site."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from support.masking import Kept, masked, plan_of, randomise, relative
from torch import Tensor, nn

from scionet.models.factory import build, import_torchvision
from scionet.network.discovery.discover import discover
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut
from scionet.network.surgery.verification import verify

EXACT = 1e-10
VISIBLE = 1e-6


def resnet50() -> nn.Module:
    models = import_torchvision().models
    return models.ResNet(models.resnet.Bottleneck, [3, 4, 6, 3], num_classes=10, width_per_group=16)


def densenet121() -> nn.Module:
    models = import_torchvision().models
    return models.DenseNet(growth_rate=6, block_config=(6, 12, 24, 16), num_init_features=8, bn_size=2, num_classes=10)


def convnext_tiny() -> nn.Module:
    models = import_torchvision().models
    block = models.convnext.CNBlockConfig
    stages = [block(12, 24, 3), block(24, 36, 3), block(36, 48, 9), block(48, None, 3)]
    return models.ConvNeXt(stages, num_classes=10)


def vgg16_bn() -> nn.Module:
    """VGG-16-BN with an eighth of the channels; the classifier reads the flattened 7 x 7 map, as in the large one."""
    models = import_torchvision().models
    widths = [width if width == "M" else width // 8 for width in models.vgg.cfgs["D"]]
    model = models.VGG(nn.Identity(), num_classes=10, init_weights=False)
    model.features = models.vgg.make_layers(widths, batch_norm=True)
    hidden = [nn.Linear(64 * 49, 48), nn.ReLU(), nn.Dropout(), nn.Linear(48, 40), nn.ReLU(), nn.Dropout()]
    model.classifier = nn.Sequential(*hidden, nn.Linear(40, 10))
    return model


def vision_transformer() -> nn.Module:
    models = import_torchvision().models
    return models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=10
    )


def swin() -> nn.Module:
    """Two stages; the second block of the first attends in shifted windows."""
    models = import_torchvision().models
    settings: dict[str, Any] = {"patch_size": [4, 4], "window_size": [4, 4], "depths": [2, 2], "num_heads": [2, 4]}
    return models.SwinTransformer(**settings, embed_dim=16, mlp_ratio=2.0, num_classes=10)


def timm_swin() -> nn.Module:
    settings: dict[str, Any] = {"img_size": 32, "window_size": 4, "depths": (2, 2), "num_heads": (2, 4)}
    return build("timm:swin_tiny_patch4_window7_224", **settings, embed_dim=16, num_classes=10)


@dataclass(frozen=True)
class Architecture:
    """A network, how many sites it has by hand count, and the operations that forbid others."""

    make: Callable[[], nn.Module]
    sites: int
    refused: frozenset[str] = frozenset({"output"})


def named(factory: str, sites: int, refused: str = "output") -> Architecture:
    return Architecture(lambda: build(factory), sites, frozenset(refused.split()))


ARCHITECTURES = {
    # Inner widths, and the stream of the first stage; those of the others meet the zeros of padded shortcuts.
    "resnet20": named("scionet:resnet20", 9 + 1, "output add"),
    "resnet56": named("scionet:resnet56", 27 + 1, "output add"),
    "vgg16_bn": Architecture(vgg16_bn, 13 + 2),
    # Inner widths and one stream for each stage, the stem's with the first.
    "resnet18": named("torchvision:resnet18", 8 + 4),
    "resnet50": Architecture(resnet50, 2 * 16 + 5),
    "resnet50d": named("timm:resnet50d", 2 * 16 + 5 + 2),
    # Stem, hidden widths of all blocks but the first, widths of squeeze-and-excitation, streams, head.
    "mobilenet_v2": named("torchvision:mobilenet_v2", 1 + 16 + 7 + 1),
    "mobilenet_v3_small": named("torchvision:mobilenet_v3_small", 1 + 10 + 9 + 5 + 2),
    "efficientnet_b0": named("torchvision:efficientnet_b0", 1 + 15 + 16 + 7 + 1),
    "efficientnet_lite0": named("timm:efficientnet_lite0", 1 + 15 + 7 + 1),
    "mnasnet1_0": named("torchvision:mnasnet1_0", 1 + 16 + 7 + 1),
    "regnet_y_400mf": named("torchvision:regnet_y_400mf", 16 + 16 + 5),
    # Bottlenecks, growths, transitions, stem.
    "densenet121": Architecture(densenet121, 58 + 58 + 3 + 1),
    "googlenet": named("torchvision:googlenet", 3 + 9 * 6),
    "squeezenet1_1": named("torchvision:squeezenet1_1", 1 + 8 * 3),
    # Hidden widths of the blocks' MLPs alone.
    "convnext_tiny": Architecture(convnext_tiny, 18, frozenset({"output", "native_layer_norm", "add_", "convolution"})),
    # The same, and heads of attention.
    "vit": Architecture(vision_transformer, 3 + 3, frozenset({"output", "native_layer_norm"})),
    "timm_vit_tiny": Architecture(
        lambda: build("timm:vit_tiny_patch16_224", img_size=32, depth=3, num_classes=10),
        3 + 3,
        frozenset({"output", "native_layer_norm"}),
    ),
    "timm_vit_normalised": Architecture(
        lambda: build("timm:vit_tiny_patch16_224", img_size=32, depth=1, num_classes=10, qk_norm=True, init_values=0.5),
        1 + 1,
        frozenset({"output", "native_layer_norm"}),
    ),
    "timm_swin": Architecture(timm_swin, 4 + 4, frozenset({"output", "native_layer_norm", "add"})),
    # Its attention divides the width of the stream by the number of heads.
    "swin": Architecture(swin, 4, frozenset({"output", "native_layer_norm", "add", "provisional cut"})),
}

SLOW = (
    *("densenet121", "efficientnet_b0", "efficientnet_lite0", "googlenet", "mnasnet1_0"),
    *("mobilenet_v3_small", "regnet_y_400mf", "resnet50", "resnet50d", "resnet56", "vgg16_bn"),
)
"""A smaller network of the same kind is tested each time."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ARCHITECTURES]
)
def test_masked_is_cut_at_every_site(name: str) -> None:
    torch.manual_seed(0)
    architecture = ARCHITECTURES[name]
    model = randomise(architecture.make())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    sites = discover(model, x)
    assert len(sites) == architecture.sites
    assert {refusal.operation for refusal in sites.refused} == architecture.refused

    rng = np.random.default_rng(0)
    kept = {site: random_subset(sites[site].width, rng) for site in sites}
    with torch.no_grad():
        dense = model(x)
        failed = {
            site: gap for site in sites if (gap := difference(model, sites, {site: kept[site]}, x, dense)) > EXACT
        }
        assert not failed
        assert difference(model, sites, kept, x, dense) <= EXACT
    verify(model, plan_of(sites, kept), sites, cut(model, plan_of(sites, kept), sites), x)


def random_subset(width: int, rng: np.random.Generator) -> list[int]:
    """At most half of the units, so that some of those that go are alive."""
    return sorted(rng.permutation(width)[: rng.integers(1, width // 2 + 1)].tolist())


def difference(model: nn.Module, sites: Sites, kept: Kept, x: Tensor, dense: Tensor) -> float:
    """Relative difference of the masked and the cut network; the mask itself must be visible at the output."""
    with masked(model, sites, kept):
        expected = model(x)
    assert relative(dense, expected) > VISIBLE, f"{list(kept)} does not matter; the comparison would show nothing"
    return relative(expected, cut(model, plan_of(sites, kept), sites)(x))
