"""Pruned architectures predefined by papers, with untrained weights, for the Scratch-E and Scratch-B baselines.

Source: Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, and its code. ResNet-50-2x is missing, because
its blocks read their input through an index layer. Build them with `scionet.models.factory.build` as
``scionet.models.predefined:NAME``.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from torch import Tensor, nn

from scionet.models.factory import build
from scionet.models.resnets import resnet56, resnet110

Widths = Sequence[int | None]
"""Channels of the convolutions in order; None is a 2 x 2 max-pool."""

VGG16: Widths = (64, 64, None, 128, 128, None, *(256,) * 3, None, *(512,) * 3, None, *(512,) * 3)
VGG16_A: Widths = (32, 64, None, 128, 128, None, *(256,) * 3, None, *(256,) * 3, None, *(256,) * 3)
_HALVED: Widths = (32, 32, None, 64, 64, None, *(128,) * 3, None, *(256,) * 3, None, *(512,) * 3)
_TINY: Widths = (16, 16, None, 32, 32, None, *(64,) * 3, None, *(128,) * 3, None, 128, 128, 256)
_FIVE: Widths = (24, 22, None, 41, 51, None, 108, 89, 111, None, 184, 276, 228, None, *(512,) * 3)


class Vgg(nn.Module):
    """3 x 3 convolutions and max-pools, followed by a head."""

    def __init__(self, widths: Widths, norm: bool, head: nn.Sequential) -> None:
        """Make convolutions of these widths, with BatchNorm and without bias if `norm`, followed by `head`."""
        super().__init__()
        self.features = nn.Sequential(*_layers(widths, norm))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(batch, 3, height, width)`` to logits ``(batch, classes)``."""
        return self.head(self.features(x))


def _layers(widths: Widths, norm: bool) -> Iterable[nn.Module]:
    channels = 3
    for width in widths:
        if width is None:
            yield nn.MaxPool2d(2)
            continue
        yield nn.Conv2d(channels, width, 3, padding=1, bias=not norm)
        if norm:
            yield nn.BatchNorm2d(width)
        yield nn.ReLU(inplace=True)
        channels = width


def vgg16_cifar(classes: int = 10, widths: Widths = VGG16) -> Vgg:
    """VGG-16 for 32 x 32 pixels with BatchNorm and one hidden layer: 15.0 M parameters, 313 MMACs."""
    last = next(width for width in reversed(widths) if width)
    hidden = (nn.Linear(last, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True))
    return Vgg(widths, True, nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), *hidden, nn.Linear(512, classes)))


def vgg16_a(classes: int = 10) -> Vgg:
    """VGG-16-A of L1-norm pruning (Li et al., ICLR 2017)."""
    return vgg16_cifar(classes, VGG16_A)


def resnet56_a(classes: int = 10) -> nn.Module:
    """ResNet-56-A of L1-norm pruning."""
    return _narrow(resnet56(classes), (0.9, 0.9, 0.9), (16, 20, 38, 54))


def resnet110_b(classes: int = 10) -> nn.Module:
    """ResNet-110-B of L1-norm pruning."""
    return _narrow(resnet110(classes), (0.5, 0.6, 0.7), (36, 38, 74))


def resnet34_a(classes: int = 1000) -> nn.Module:
    """ResNet-34-A of L1-norm pruning, for ImageNet; needs torchvision."""
    return _narrow(
        build("torchvision:resnet34", num_classes=classes), (0.7, 0.7, 0.7, 1.0), (2, 8, 14, 16, 26, 28, 30, 32)
    )


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


def _vgg_imagenet(widths: Widths, classes: int = 1000) -> nn.Module:
    """VGG-16 for ImageNet without BatchNorm, with three fully connected layers."""
    last = next(width for width in reversed(widths) if width)
    hidden = (nn.Linear(last * 49, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 4096))
    head = nn.Sequential(nn.Flatten(), *hidden, nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, classes))
    return Vgg((*widths, None), False, head)


def _vgg_pooled(widths: Widths, classes: int = 1000) -> nn.Module:
    """As `_vgg_imagenet`, but with global average pooling and one linear layer as the head."""
    last = next(width for width in reversed(widths) if width)
    return Vgg(widths, False, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)))


thinet_30 = partial(_thinet, (19, 38, 76, 153))
thinet_50 = partial(_thinet, (32, 64, 128, 256))
thinet_70 = partial(_thinet, (44, 89, 179, 358))
vgg16_imagenet = partial(_vgg_imagenet, VGG16)
vgg_conv = partial(_vgg_imagenet, _HALVED)
vgg_gap = partial(_vgg_pooled, _HALVED)
vgg_tiny = partial(_vgg_pooled, _TINY)
vgg_5x = partial(_vgg_imagenet, _FIVE)


def kept(width: int, density: float) -> int:
    """Number of channels that the official code keeps: ``int(width * (1 - removed))``, in floating point."""
    return int(width * (1 - round(1 - density, 10)))


def _narrow(model: nn.Module, densities: Sequence[float], skipped: Sequence[int]) -> nn.Module:
    """Narrow the first convolution of each basic block. Convolutions are numbered from 1, without shortcuts."""
    number = 2
    for stage, density in enumerate(densities, 1):
        for block in getattr(model, f"layer{stage}"):
            if number not in skipped:
                width = kept(block.conv1.out_channels, density)
                block.conv1, block.bn1 = _resized(block.conv1, out_channels=width), nn.BatchNorm2d(width)
                block.conv2 = _resized(block.conv2, in_channels=width)
            number += 2
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
