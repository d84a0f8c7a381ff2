"""Known counts: parameters, multiply-accumulate operations, and epochs of Scratch-B."""

from typing import Any, cast

import pytest
import torch
from torch import nn

from scionet import Widths, prune
from scionet.bench.experiment.arms import ARMS, epochs_of
from scionet.budget.costs import measure
from scionet.errors import InvalidSetting
from scionet.models.factory import build
from scionet.models.predefined import narrowed, rounded_down, truncated
from scionet.models.resnets import resnet20

CIFAR, IMAGENET = (1, 3, 32, 32), (1, 3, 224, 224)
COUNTS = {
    "scionet.models.predefined:vgg16_cifar": (CIFAR, 14_987_722, 313_463_808),
    "scionet.models.predefined:vgg16_a": (CIFAR, 5_397_034, 206_279_680),
    "scionet:resnet56": (CIFAR, 853_018, 125_485_696),
    "scionet.models.predefined:resnet56_a": (CIFAR, 773_336, 112_435_840),
    "scionet.models.predefined:resnet56_b": (CIFAR, 735_712, 90_907_264),
    "scionet.models.predefined:resnet110_a": (CIFAR, 1_688_522, 212_779_648),
    "scionet.models.predefined:resnet110_b": (CIFAR, 1_168_424, 155_124_352),
    "torchvision:resnet34": (IMAGENET, 21_797_672, 3_663_761_408),
    "scionet.models.predefined:resnet34_a": (IMAGENET, 20_151_764, 3_100_184_576),
    "scionet.models.predefined:resnet34_b": (IMAGENET, 19_469_372, 2_782_269_440),
    "scionet.models.predefined:resnet50_2x": (IMAGENET, 19_693_584, 2_730_129_076),
    "torchvision:resnet50": (IMAGENET, 25_557_032, 4_089_184_256),
    "scionet.models.predefined:thinet_30": (IMAGENET, 8_665_318, 1_166_283_835),
    "scionet.models.predefined:thinet_50": (IMAGENET, 12_381_864, 1_822_031_872),
    "scionet.models.predefined:thinet_70": (IMAGENET, 16_945_246, 2_601_392_356),
    "scionet.models.predefined:vgg16_imagenet": (IMAGENET, 138_357_544, 15_470_264_320),
    "scionet.models.predefined:vgg_conv": (IMAGENET, 131_452_552, 4_791_205_888),
    "scionet.models.predefined:vgg_gap": (IMAGENET, 8_322_696, 4_668_084_224),
    "scionet.models.predefined:vgg_tiny": (IMAGENET, 1_325_368, 1_004_578_816),
    "scionet:proxyless_mobile": (IMAGENET, 4_080_512, 320_427_584),
    "scionet.models.predefined:vgg_5x": (IMAGENET, 130_879_294, 3_515_283_520),
}


LARGE = ("vgg16_imagenet", "vgg_conv", "vgg_5x")
"""Networks of more than 100 million parameters, which take long to initialise."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.endswith(LARGE)) for name in COUNTS]
)
def test_counts_are_those_of_the_protocol(name: str) -> None:
    shape, params, macs = COUNTS[name]
    found = measure(build(name).eval(), torch.zeros(shape))
    assert (found.params, found.macs) == (params, macs)


@pytest.mark.parametrize(
    ("dense", "pruned", "epochs", "cap", "expected"),
    [
        ("scionet.models.predefined:vgg16_cifar", "scionet.models.predefined:vgg16_a", 160, None, 243),
        ("scionet:resnet56", "scionet.models.predefined:resnet56_a", 160, None, 178),
        ("torchvision:resnet34", "scionet.models.predefined:resnet34_a", 90, None, 106),
        ("torchvision:resnet50", "scionet.models.predefined:thinet_30", 90, 2.0, 180),
        ("torchvision:resnet50", "scionet.models.predefined:thinet_50", 90, 2.0, 180),
        ("torchvision:resnet50", "scionet.models.predefined:thinet_70", 90, 2.0, 141),
        ("torchvision:resnet50", "scionet.models.predefined:resnet50_2x", 90, 2.0, 134),
        ("scionet.models.predefined:vgg16_imagenet", "scionet.models.predefined:vgg_tiny", 90, 2.0, 180),
    ],
)
def test_scratch_b_of_the_counts(dense: str, pruned: str, epochs: int, cap: float | None, expected: int) -> None:
    ratio = COUNTS[dense][2] / COUNTS[pruned][2]
    assert epochs_of(ARMS["stock scratch-b"], epochs, ratio, cap) == expected


@pytest.mark.parametrize(
    ("width", "removed", "official", "exact"),
    [
        *((16, 0.1, 14, 14), (32, 0.1, 28, 28), (64, 0.1, 57, 57)),
        *((64, 0.3, 44, 44), (128, 0.3, 89, 89), (256, 0.3, 179, 179)),
        *((10, 0.9, 0, 1), (50, 0.9, 4, 5), (1000, 0.9, 99, 100), (100, 0.7, 30, 30)),
    ],
)
def test_rounding_is_that_of_the_official_code_or_without_its_error(
    width: int, removed: float, official: int, exact: int
) -> None:
    assert truncated(width, 1 - removed) == official
    assert rounded_down(width, 1 - removed) == exact


def first_widths(model: nn.Module) -> list[list[int]]:
    """Channels of the first convolution of each block, by stage."""
    stages = [stage for name, stage in model.named_children() if name.startswith("layer")]
    return [[cast(Any, block).conv1.out_channels for block in stage.children()] for stage in stages]


def test_first_convolutions_have_the_published_widths() -> None:
    assert first_widths(build("scionet.models.predefined:resnet34_a")) == [
        [64, 44, 44],
        [128, 89, 89, 128],
        [256, 179, 179, 179, 179, 256],
        [512, 512, 512],
    ]
    found = [width for stage in first_widths(build("scionet.models.predefined:resnet56_a")) for width in stage]
    whole = {7: 16, 9: 32, 18: 64, 26: 64}  # blocks of the skipped convolutions 16, 20, 38 and 54
    assert found == [whole.get(block, (14, 28, 57)[block // 9]) for block in range(27)]


def test_logits_have_the_requested_number_of_classes() -> None:
    assert build("scionet.models.predefined:vgg16_a", classes=7).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert build("scionet.models.predefined:thinet_30", classes=5).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("resnet56_b", 0.137, 0.276), ("resnet110_a", None, 0.159), ("resnet34_b", None, 0.242)],
)
def test_reductions_are_the_published_ones(name: str, params: float | None, macs: float) -> None:
    """Li et al., ICLR 2017, tables 1 and 2; without the parameters of two networks, which exact counts contradict."""
    dense = build(f"{'torchvision' if '34' in name else 'scionet'}:{name[:-2]}").eval()
    x = torch.zeros(IMAGENET if "34" in name else CIFAR)
    before, after = measure(dense, x), measure(build(f"scionet.models.predefined:{name}").eval(), x)
    assert 1 - after.macs / before.macs == pytest.approx(macs, abs=0.002)
    assert params is None or 1 - after.params / before.params == pytest.approx(params, abs=0.002)


def test_any_skip_list_densities_and_rounding_are_taken() -> None:
    model = narrowed(resnet20(), (0.5, 0.3, 1.0), {4, 10}, lambda width, density: round(width * density))
    widths = [block.conv1.out_channels for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
    assert widths == [8, 16, 8, 10, 32, 10, 64, 64, 64]
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("densities", [(0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.5, 1.5), (0.01, 1.0, 1.0)])
def test_densities_that_do_not_fit_are_refused(densities: tuple[float, ...]) -> None:
    with pytest.raises(InvalidSetting, match=r"densities are numbers|would keep no channel"):
        narrowed(resnet20(), densities)


def test_the_widths_of_an_architecture_are_given_to_a_trained_network() -> None:
    torch.manual_seed(0)
    widths = {
        f"layer{stage}.{block}.conv1": width for stage, width in ((1, 14), (2, 28), (3, 57)) for block in range(3)
    }
    result = prune(resnet20(), example_inputs=torch.zeros(CIFAR), method="l1", widths=Widths(widths))
    expected = narrowed(resnet20(), (0.9, 0.9, 0.9)).state_dict()
    assert {k: v.shape for k, v in result.model.state_dict().items()} == {k: v.shape for k, v in expected.items()}
