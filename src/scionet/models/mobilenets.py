"""MobileNet-V1 of Howard et al., *MobileNets: Efficient Convolutional Neural Networks*, 2017, for 32 x 32 pixels."""

from collections.abc import Iterator

from torch import Tensor, nn

STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Channels and stride of each depthwise-separable convolution."""


class MobileNetV1(nn.Module):
    """A convolution, thirteen depthwise-separable ones, and a linear layer.

    The strides are those of Lubana and Dick (ICLR 2021) for 32 x 32 pixels: the first convolution has stride 1.
    """

    def __init__(self, classes: int) -> None:
        """Make the network with untrained weights."""
        super().__init__()
        self.features = nn.Sequential(*_convolution(3, 32, 3), *_separable(32))
        self.linear = nn.Linear(STAGES[-1][0], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(batch, 3, height, width)`` to logits ``(batch, classes)``."""
        return self.linear(self.features(x).mean((2, 3)))


def mobilenet_v1(classes: int = 10) -> MobileNetV1:
    """MobileNet-V1 for 32 x 32 pixels: 3.2 M parameters, 46 MMACs."""
    return MobileNetV1(classes)


def _separable(channels: int) -> Iterator[nn.Module]:
    """Depthwise and pointwise convolutions in turn."""
    for width, stride in STAGES:
        yield from _convolution(channels, channels, 3, stride, groups=channels)
        yield from _convolution(channels, width, 1)
        channels = width


def _convolution(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> Iterator[nn.Module]:
    """A convolution with BatchNorm and ReLU."""
    yield nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    yield nn.BatchNorm2d(width)
    yield nn.ReLU(inplace=True)
