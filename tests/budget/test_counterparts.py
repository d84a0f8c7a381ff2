"""Widths of predefined architectures: found by name and shape, equal to what cutting to them gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scionet import Widths, prune
from scionet.budget.counterparts import widths_of_counterpart
from scionet.errors import InvalidSetting
from scionet.models.factory import build
from scionet.models.predefined import narrowed, vgg16_a, vgg16_cifar
from scionet.models.resnets import resnet20
from scionet.network.discovery.discover import discover
from scionet.network.sites import Sites

CIFAR = torch.zeros(1, 3, 32, 32)


def sites_of(model: nn.Module) -> Sites:
    return discover(model.eval(), CIFAR)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_the_widths_of_vgg16_a_are_those_of_the_paper() -> None:
    widths = widths_of_counterpart(sites_of(vgg16_cifar(7)), vgg16_a(7))
    assert [*widths.units.values()] == [32, 64, 128, 128, *[256] * 9, 512]  # the last is the hidden linear layer, whole


def test_l1_at_these_widths_gives_the_architecture_with_the_largest_filters() -> None:
    torch.manual_seed(0)
    wide, narrow = (8, 8, None, 16, 16), (3, 8, None, 16, 5)
    model, other = vgg16_cifar(7, wide).eval(), vgg16_cifar(7, narrow)
    inputs = torch.zeros(1, 3, 4, 4)
    widths = widths_of_counterpart(discover(model, inputs), other)
    result = prune(model, example_inputs=inputs, method="l1", widths=widths)
    assert shapes(result.model) == shapes(other)
    kept = {choice.site: choice.kept for choice in result.plan.choices}["features.0"]
    norms = model.features[0].weight.detach().abs().sum((1, 2, 3))
    assert sorted(kept) == sorted(norms.argsort(descending=True)[:3].tolist())


DENSITY = st.sampled_from([0.3, 0.5, 0.75, 1.0])


@settings(max_examples=15)
@given(densities=st.tuples(DENSITY, DENSITY, DENSITY), skipped=st.sets(st.sampled_from([2, 8, 14, 18])))
def test_the_widths_of_any_narrowed_resnet_are_found(densities: tuple[float, float, float], skipped: set[int]) -> None:
    other = narrowed(resnet20(), densities, skipped)
    found = widths_of_counterpart(SITES, other)
    convolutions = {name: module for name, module in other.named_modules() if isinstance(module, nn.Conv2d)}
    assert found == Widths({name: convolutions[name].out_channels for name in SITES})


SITES = sites_of(resnet20())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["thinet_50", "resnet50_2x"])
def test_thinet_is_a_narrower_resnet50_and_a_network_with_channel_samplers_is_not(name: str) -> None:
    model = build("torchvision:resnet50").eval()
    sites, other = discover(model, torch.zeros(1, 3, 64, 64)), build(f"scionet.models.predefined:{name}")
    if name == "resnet50_2x":
        with pytest.raises(InvalidSetting, match=r"layer1\.0\.conv1"):
            widths_of_counterpart(sites, other)
        return
    units = widths_of_counterpart(sites, other).units
    assert [units[f"layer{n}.0.conv1"] for n in (1, 2, 3, 4)] == [32, 64, 128, 256]
    assert units["conv1"] == 64


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (resnet20(7), "the shape \\(7, 64\\) for 'linear.weight'"),
        (build("scionet:resnet32"), "the shape .* for 'layer1.3.bn1.bias"),
        (build("scionet:small_vgg"), "no comparable tensor for 'conv1.weight"),
        (build("scionet:resnet20_projection"), "for 'layer[23].0.shortcut"),
    ],
    ids=["classes", "deeper", "family", "shortcuts"],
)
def test_other_networks_are_refused_by_a_tensor(other: nn.Module, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        widths_of_counterpart(SITES, other)


def test_a_wider_network_is_refused() -> None:
    narrow = narrowed(resnet20(), (0.5, 0.5, 0.5)).eval()
    with pytest.raises(InvalidSetting, match="give a narrower network of the same family"):
        widths_of_counterpart(sites_of(narrow), resnet20())


def test_groups_and_concatenations_are_counted_in_units() -> None:
    """Two branches that are concatenated, of which one is a grouped convolution with units of whole groups."""

    class Two(nn.Module):
        def __init__(self, first: int, groups: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, first, 3, padding=1)
            self.inner = nn.Conv2d(3, 4 * groups, 3, padding=1)
            self.grouped = nn.Conv2d(4 * groups, 2 * groups, 3, padding=1, groups=groups)
            self.last = nn.Conv2d(first + 2 * groups, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            branches = [self.first(x).relu(), self.grouped(self.inner(x).relu()).relu()]
            return self.last(torch.cat(branches, 1)).mean((2, 3))

    sites = sites_of(Two(8, 6))
    found = widths_of_counterpart(sites, Two(3, 4))
    result = prune(Two(8, 6).eval(), example_inputs=CIFAR, method="l1", widths=found)
    assert shapes(result.model) == shapes(Two(3, 4))
    assert found.units["first"] == 3
