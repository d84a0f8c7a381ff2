"""Pruned architectures predefined by papers, with untrained weights, for the Scratch-E and Scratch-B baselines.

Source: Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, and its code. Build them with
`scionet.models.factory.build` as ``scionet.models.predefined:NAME``.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scionet.errors import InvalidSetting
from scionet.models.factory import build
from scionet.models.resnets import resnet56, resnet110
from scionet.models.vgg import VGG16, Vgg, VggWidths, pooled

VGG16_A: VggWidths = (32, 64, None, 128, 128, None, *(256,) * 3, None, *(256,) * 3, None, *(256,) * 3)
_HALVED: VggWidths = (32, 32, None, 64, 64, None, *(128,) * 3, None, *(256,) * 3, None, *(512,) * 3)
_TINY: VggWidths = (16, 16, None, 32, 32, None, *(64,) * 3, None, *(128,) * 3, None, 128, 128, 256)
_RESNET34_SKIPPED = (2, 8, 14, 16, 26, 28, 30, 32)
_RESNET50_2X = (
    ((35, 64, 55), (101, 51, 39), (97, 50, 37)),
    ((144, 128, 106), (205, 105, 72), (198, 105, 72), (288, 128, 110)),
    (
        *((278, 256, 225), (418, 209, 147), (407, 204, 158)),
        *((423, 212, 155), (412, 211, 148), (595, 256, 213)),
    ),
    ((606, 512, 433), (1222, 512, 437), (1147, 512, 440)),
)
"""Of each bottleneck: channels that are read, and outputs of the first and the second convolution."""
_FIVE: VggWidths = (24, 22, None, 41, 51, None, 108, 89, 111, None, 184, 276, 228, None, *(512,) * 3)


def vgg16_cifar(classes: int = 10, widths: VggWidths = VGG16) -> Vgg:
    """VGG-16 for 32 x 32 pixels with BatchNorm and one hidden layer: 15.0 M parameters, 313 MMACs."""
    last = next(width for width in reversed(widths) if width)
    hidden = (nn.Linear(last, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True))
    return Vgg(widths, True, nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), *hidden, nn.Linear(512, classes)))


def vgg16_a(classes: int = 10) -> Vgg:
    """VGG-16-A of L1-norm pruning (Li et al., ICLR 2017)."""
    return vgg16_cifar(classes, VGG16_A)


def resnet56_a(classes: int = 10) -> nn.Module:
    """ResNet-56-A of L1-norm pruning."""
    return narrowed(resnet56(classes), (0.9, 0.9, 0.9), (16, 20, 38, 54))


def resnet56_b(classes: int = 10) -> nn.Module:
    """ResNet-56-B of L1-norm pruning."""
    return narrowed(resnet56(classes), (0.4, 0.7, 0.9), (16, 18, 20, 34, 38, 54))


def resnet110_a(classes: int = 10) -> nn.Module:
    """ResNet-110-A of L1-norm pruning."""
    return narrowed(resnet110(classes), (0.5, 1.0, 1.0), (36,))


def resnet110_b(classes: int = 10) -> nn.Module:
    """ResNet-110-B of L1-norm pruning."""
    return narrowed(resnet110(classes), (0.5, 0.6, 0.7), (36, 38, 74))


def resnet34_a(classes: int = 1000) -> nn.Module:
    """ResNet-34-A of L1-norm pruning, for ImageNet; needs torchvision."""
    return narrowed(build("torchvision:resnet34", num_classes=classes), (0.7, 0.7, 0.7, 1.0), _RESNET34_SKIPPED)


def resnet34_b(classes: int = 1000) -> nn.Module:
    """ResNet-34-B of L1-norm pruning, for ImageNet; needs torchvision."""
    return narrowed(build("torchvision:resnet34", num_classes=classes), (0.5, 0.4, 0.6, 1.0), _RESNET34_SKIPPED)


def resnet50_2x(classes: int = 1000) -> nn.Module:
    """ResNet-50-2x of He et al., ICCV 2017, for ImageNet; needs torchvision.

    Each block reads some channels of its input. The authors' choice of channels is not published with the widths; here
    they are the first ones, which changes neither parameters nor MACs.
    """
    model = build("torchvision:resnet50", num_classes=classes)
    for stage, blocks in enumerate(_RESNET50_2X, 1):
        for block, (read, first, second) in zip(getattr(model, f"layer{stage}"), blocks, strict=True):
            block.conv1 = nn.Sequential(SelectedChannels(range(read)), _resized(block.conv1, read, first))
            block.conv2 = _resized(block.conv2, first, second)
            block.conv3 = _resized(block.conv3, in_channels=second)
            block.bn1, block.bn2 = nn.BatchNorm2d(first), nn.BatchNorm2d(second)
    return model


class SelectedChannels(nn.Module):
    """Passes on some of its input's channels."""

    def __init__(self, channels: Iterable[int]) -> None:
        """Pass on these channels, in this order."""
        super().__init__()
        self.register_buffer("channels", torch.tensor([*channels]))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, ...)`` to ``(batch, selected channels, ...)``."""
        return x.index_select(1, self.get_buffer("channels"))


def _thinet(inner: Sequence[int], classes: int = 1000) -> nn.Module:
    """ResNet-50 with one inner width per stage for its bottlenecks."""
    model = build("torchvision:resnet50", num_classes=classes)
    for stage, width in enumerate(inner, 1):
        for block in getattr(model, f"layer{stage}"):
            block.conv1 = _resized(block.conv1, out_channels=width)
            block.conv2 = _resized(block.conv2, width, width)
            block.conv3 = _resized(block.conv3, in_channels=width)
            block.bn1, block.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
    return model


def _vgg_imagenet(widths: VggWidths, classes: int = 1000) -> nn.Module:
    """VGG-16 for ImageNet without BatchNorm, with three fully connected layers."""
    last = next(width for width in reversed(widths) if width)
    hidden = (nn.Linear(last * 49, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 4096))
    head = nn.Sequential(nn.Flatten(), *hidden, nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, classes))
    return Vgg((*widths, None), False, head)


def _vgg_pooled(widths: VggWidths, classes: int = 1000) -> nn.Module:
    """As `_vgg_imagenet`, but with global average pooling and one linear layer as the head."""
    last = next(width for width in reversed(widths) if width)
    return Vgg(widths, False, pooled(last, classes))


thinet_30 = partial(_thinet, (19, 38, 76, 153))
thinet_50 = partial(_thinet, (32, 64, 128, 256))
thinet_70 = partial(_thinet, (44, 89, 179, 358))
vgg16_imagenet = partial(_vgg_imagenet, VGG16)
vgg_conv = partial(_vgg_imagenet, _HALVED)
vgg_gap = partial(_vgg_pooled, _HALVED)
vgg_tiny = partial(_vgg_pooled, _TINY)
vgg_5x = partial(_vgg_imagenet, _FIVE)


def truncated(width: int, density: float) -> int:
    """Number of channels that the official code keeps: ``int(width * (1 - removed))``, in floating point."""
    return int(width * (1 - round(1 - density, 10)))


def rounded_down(width: int, density: float) -> int:
    """Number of channels at a density, rounded down; unlike `truncated`, 0.1 of 10 channels is 1."""
    return int(width * density + 1e-9)


def narrowed(
    model: nn.Module,
    densities: Sequence[float],
    skipped: Collection[int] = (),
    rounding: Callable[[int, float], int] = truncated,
) -> nn.Module:
    """Narrow the first convolution of each basic block of a ResNet, in place, with new weights.

    Args:
        model: A ResNet with stages ``layer1``, ``layer2``, ... of blocks with ``conv1``, ``bn1`` and ``conv2``.
        densities: Fraction of channels kept in each stage, in (0, 1].
        skipped: Convolutions that keep their width. They are numbered from 1 in the order of the forward pass, without
            those of shortcuts; the first convolution of block k (from 0) is number 2 + 2 k.
        rounding: Channels kept, from the width and the density.

    Returns:
        The model.

    Raises:
        InvalidSetting: If the model has another number of stages, a density is out of range, or a layer would keep
            nothing.
    """
    stages = [stage for name, stage in model.named_children() if name.startswith("layer")]
    if len(stages) != len(densities) or not all(0 < density <= 1 for density in densities):
        raise InvalidSetting(
            f"densities are numbers in (0, 1], one for each of the {len(stages)} stages; given {tuple(densities)}"
        )
    pairs = zip(stages, densities, strict=True)
    blocks: list[tuple[Any, float]] = [(block, density) for stage, density in pairs for block in stage.children()]
    for index, (block, density) in enumerate(blocks):
        if 2 + 2 * index in skipped:
            continue
        width = rounding(block.conv1.out_channels, density)
        if width < 1:
            raise InvalidSetting(f"convolution {2 + 2 * index} would keep no channel at density {density}; raise it")
        block.conv1, block.bn1 = _resized(block.conv1, out_channels=width), nn.BatchNorm2d(width)
        block.conv2 = _resized(block.conv2, in_channels=width)
    return model


def _resized(conv: nn.Conv2d, in_channels: int | None = None, out_channels: int | None = None) -> nn.Conv2d:
    """A convolution of the same kind with other widths and new weights."""
    return nn.Conv2d(
        in_channels or conv.in_channels,
        out_channels or conv.out_channels,
        conv.kernel_size,  # pyright: ignore[reportArgumentType]
        conv.stride,  # pyright: ignore[reportArgumentType]
        conv.padding,  # pyright: ignore[reportArgumentType]
        bias=conv.bias is not None,
    )
