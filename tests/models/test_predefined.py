"""Known counts: parameters, multiply-accumulate operations, and epochs of Scratch-B."""

import pytest
import torch

from scionet.bench.experiment.arms import ARMS, epochs_of
from scionet.budget.costs import measure
from scionet.models.factory import build
from scionet.models.predefined import kept

CIFAR, IMAGENET = (1, 3, 32, 32), (1, 3, 224, 224)
COUNTS = {
    "scionet.models.predefined:vgg16_cifar": (CIFAR, 14_987_722, 313_463_808),
    "scionet.models.predefined:vgg16_a": (CIFAR, 5_397_034, 206_279_680),
    "scionet:resnet56": (CIFAR, 853_018, 125_485_696),
    "scionet.models.predefined:resnet56_a": (CIFAR, 773_336, 112_435_840),
    "scionet.models.predefined:resnet110_b": (CIFAR, 1_168_424, 155_124_352),
    "torchvision:resnet34": (IMAGENET, 21_797_672, 3_663_761_408),
    "scionet.models.predefined:resnet34_a": (IMAGENET, 20_151_764, 3_100_184_576),
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


@pytest.mark.parametrize("name", COUNTS)
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
        ("scionet.models.predefined:vgg16_imagenet", "scionet.models.predefined:vgg_tiny", 90, 2.0, 180),
    ],
)
def test_scratch_b_of_the_counts(dense: str, pruned: str, epochs: int, cap: float | None, expected: int) -> None:
    ratio = COUNTS[dense][2] / COUNTS[pruned][2]
    assert epochs_of(ARMS["stock scratch-b"], epochs, ratio, cap) == expected


@pytest.mark.parametrize(
    ("width", "removed", "expected"),
    [
        *((16, 0.1, 14), (32, 0.1, 28), (64, 0.1, 57), (64, 0.3, 44), (128, 0.3, 89), (256, 0.3, 179)),
        *((10, 0.9, 0), (50, 0.9, 4), (1000, 0.9, 99), (100, 0.7, 30)),
    ],
)
def test_rounding_is_that_of_the_official_code(width: int, removed: float, expected: int) -> None:
    assert kept(width, 1 - removed) == expected


def test_logits_have_the_requested_number_of_classes() -> None:
    assert build("scionet.models.predefined:vgg16_a", classes=7).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert build("scionet.models.predefined:thinet_30", classes=5).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
