"""VGG networks of Simonyan and Zisserman (ICLR 2015) for 32 x 32 pixels, with BatchNorm, and a small one.

An average over the last feature map takes the place of the last max-pool and of the hidden linear layers, as in most
work on CIFAR.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

VggWidths = Sequence[int | None]
"""Channels of the convolutions in order; None is a 2 x 2 max-pool."""

VGG11: VggWidths = (64, None, 128, None, 256, 256, None, 512, 512, None, 512, 512)
VGG13: VggWidths = (64, 64, None, 128, 128, None, 256, 256, None, 512, 512, None, 512, 512)
VGG16: VggWidths = (64, 64, None, 128, 128, None, *(256,) * 3, None, *(512,) * 3, None, *(512,) * 3)
VGG19: VggWidths = (64, 64, None, 128, 128, None, *(256,) * 4, None, *(512,) * 4, None, *(512,) * 4)


class Vgg(nn.Module):
    """3 x 3 convolutions and max-pools, followed by a head."""

    def __init__(self, widths: VggWidths, norm: bool, head: nn.Sequential, channels: int = 3) -> None:
        """Make the network.

        Args:
            widths: Channels of the convolutions, with None for max-pools.
            norm: Whether convolutions have a BatchNorm and no bias.
            head: Turns the last feature map into logits.
            channels: Channels of the images.
        """
        super().__init__()
        self.features = nn.Sequential(*_layers(widths, norm, channels))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        return self.head(self.features(x))


def pooled(features: int, classes: int) -> nn.Sequential:
    """A head of global average pooling and one linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))


def vgg11(classes: int = 10) -> Vgg:
    """VGG-11 for 32 x 32 pixels with one linear layer: 9.2 M parameters, 153 MMACs."""
    return Vgg(VGG11, True, pooled(512, classes))


def vgg13(classes: int = 10) -> Vgg:
    """VGG-13 for 32 x 32 pixels with one linear layer: 9.4 M parameters, 228 MMACs.

    Lubana and Dick (ICLR 2021) use it with each BatchNorm behind its ReLU, and end with a max-pool.
    """
    return Vgg(VGG13, True, pooled(512, classes))


def vgg16(classes: int = 10) -> Vgg:
    """VGG-16 for 32 x 32 pixels with one linear layer: 14.7 M parameters, 313 MMACs."""
    return Vgg(VGG16, True, pooled(512, classes))


def vgg19(classes: int = 10) -> Vgg:
    """VGG-19 for 32 x 32 pixels with one linear layer: 20.0 M parameters, 398 MMACs."""
    return Vgg(VGG19, True, pooled(512, classes))


def small_vgg(classes: int = 10, channels: int = 3) -> Vgg:
    """Six convolutions for pictures of any size from 4 x 4 pixels: 73,000 parameters, 9.9 MMACs at 32 x 32 pixels.

    Args:
        classes: Number of classes.
        channels: Channels of the pictures; 1 for the digits.
    """
    return Vgg((16, 16, None, 32, 32, None, 64, 64), True, pooled(64, classes), channels)


def _layers(widths: VggWidths, norm: bool, channels: int) -> Iterable[nn.Module]:
    for width in widths:
        if width is None:
            yield nn.MaxPool2d(2)
            continue
        yield nn.Conv2d(channels, width, 3, padding=1, bias=not norm)
        if norm:
            yield nn.BatchNorm2d(width)
        yield nn.ReLU(inplace=True)
        channels = width
