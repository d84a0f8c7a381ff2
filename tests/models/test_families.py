"""VGGs, MobileNet-V1 and ResNets with projections: their costs by hand sums, and the counts of the literature."""

from math import log10

import pytest
import torch
from torch import nn

from scionet.budget.costs import measure
from scionet.masks.weights import maskable
from scionet.models.factory import build
from scionet.models.mobilenets import mobilenet_v1
from scionet.models.resnets import CifarResNet, resnet20_projection
from scionet.models.vgg import small_vgg, vgg16
from scionet.network.discovery.discover import discover
from scionet.pruning import prune

CIFAR = (1, 3, 32, 32)
CONVOLUTIONS = {
    "vgg11": ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg13": ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
    "small_vgg": ((16, 16), (32, 32), (64, 64)),
}
"""Channels by resolution, which halves from one group to the next."""


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_vggs_cost_as_much_as_a_hand_sum(name: str) -> None:
    params = macs = 0
    channels, side = 3, 32
    for group in CONVOLUTIONS[name]:
        for width in group:
            params += 9 * channels * width + 2 * width
            macs += 9 * channels * width * side**2
            channels = width
        side //= 2
    found = measure(build(f"scionet:{name}", classes=7).eval(), torch.zeros(CIFAR))
    assert (found.params, found.macs) == (params + channels * 7 + 7, macs + channels * 7)


def test_vgg16_has_the_prunable_weights_of_the_synflow_experiments() -> None:
    """14,761,664 weights in 14 layers with 100 classes: at most 10^6.023 times fewer."""
    sizes = [weight.numel() for weight in maskable(vgg16(100)).values()]
    assert (sum(sizes), len(sizes)) == (14_761_664, 14)
    assert log10(sum(sizes) / len(sizes)) == pytest.approx(6.023, abs=5e-4)


def test_mobilenet_v1_costs_as_much_as_a_hand_sum() -> None:
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    params, macs = 27 * 32 + 64, 27 * 32 * 32**2
    channels, side = 32, 32
    for width, stride in blocks:
        side //= stride
        params += 9 * channels + 2 * channels + channels * width + 2 * width
        macs += (9 * channels + channels * width) * side**2
        channels = width
    found = measure(mobilenet_v1(7).eval(), torch.zeros(CIFAR))
    assert (found.params, found.macs) == (params + 1024 * 7 + 7, macs + 1024 * 7)


@pytest.mark.parametrize(
    ("name", "classes", "macs"),
    [
        ("resnet20_projection", 10, 40_813_184),
        ("resnet20_projection", 100, 40_818_944),
        ("resnet32_projection", 10, 69_124_736),
        ("resnet56_projection", 10, 125_747_840),
        ("resnet110_projection", 10, 253_149_824),
        ("resnet20", 10, 40_551_040),
    ],
)
def test_cifar_resnets_cost_what_the_literature_says(name: str, classes: int, macs: int) -> None:
    """Multiply-accumulates of convolutions and linear maps; with projections as Dong and Yang, NeurIPS 2019, count."""
    assert measure(build(f"scionet:{name}", classes=classes).eval(), torch.zeros(CIFAR)).macs == macs


def test_projections_are_the_only_difference_to_padded_shortcuts() -> None:
    padded, projected = CifarResNet(3), resnet20_projection()
    added = projected.state_dict().keys() - padded.state_dict().keys()
    assert {name.split(".")[0] for name in added} == {"layer2", "layer3"}
    assert all(".0.shortcut." in name for name in added)
    assert [projected.get_parameter(f"layer{n}.0.shortcut.0.weight").shape for n in (2, 3)] == [
        (32, 16, 1, 1),
        (64, 32, 1, 1),
    ]
    assert isinstance(projected.layer1[0].shortcut, nn.Identity)


@pytest.mark.parametrize("side", [4, 8, 17, 32])
def test_the_small_vgg_takes_pictures_of_any_size(side: int) -> None:
    model = small_vgg(10, channels=1).eval()
    assert model(torch.zeros(2, 1, side, side)).shape == (2, 10)


@pytest.mark.parametrize(("name", "shape"), [("mobilenet_v1", (2, 3, 16, 16)), ("small_vgg", (2, 3, 8, 8))])
def test_every_channel_but_the_logits_can_be_removed(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, images = build(f"scionet:{name}").eval(), torch.rand(shape)
    sites = discover(model, images)
    assert [refusal.operation for refusal in sites.refused] == ["output"]
    result = prune(model, [images], "macs<=50%", example_inputs=images, method="l1", widths="uniform", repair=[])
    assert result.report.pruned.macs <= 0.5 * measure(model, images).macs
    assert result.report.difference < 1e-4


def test_projection_streams_can_be_narrowed() -> None:
    """Unlike padded shortcuts, which tie channels of two widths, projections leave no stream whole."""
    model = resnet20_projection().eval()
    sites = discover(model, torch.zeros(1, 3, 16, 16))
    streams = [site for site in sites.values() if len(site.producers) > 1]
    assert [site.width for site in streams] == [16, 32, 64]
