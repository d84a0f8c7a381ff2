"""ProxylessNet-Mobile of Cai et al., *ProxylessNAS*, ICLR 2019: the architecture found for a mobile CPU."""

from collections import OrderedDict
from collections.abc import Iterator

from torch import Tensor, nn

EPS = 1e-3
"""ε of every BatchNorm."""
STAGES = (
    (16, 1, ((3, 1),)),
    (32, 2, ((5, 3), (3, 3), None, None)),
    (40, 2, ((7, 3), (3, 3), (5, 3), (5, 3))),
    (80, 2, ((7, 6), (5, 3), (5, 3), (5, 3))),
    (96, 1, ((5, 6), (5, 3), (5, 3), (5, 3))),
    (192, 2, ((7, 6), (7, 6), (7, 3), (7, 3))),
    (320, 1, ((7, 6),)),
)
"""Channels, stride, and the kernel size and expansion of each block; None for blocks that the search removed."""


class InvertedResidual(nn.Module):
    """An inverted residual block: expansion, depthwise convolution, projection."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        """Map `channels` to `width` channels, with a shortcut if channels and resolution do not change."""
        super().__init__()
        inner = channels * expansion
        parts = {
            "depth_conv": convolution(inner, inner, kernel, stride, groups=inner),
            "point_linear": convolution(inner, width, activation=False),
        }
        if expansion > 1:
            parts = {"inverted_bottleneck": convolution(channels, inner), **parts}
        self.mobile_inverted_conv = nn.Sequential(OrderedDict(parts))
        self.residual = channels == width and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)``; height and width are divided by the stride."""
        return self.mobile_inverted_conv(x) + x if self.residual else self.mobile_inverted_conv(x)


class ProxylessMobile(nn.Module):
    """ProxylessNet-Mobile. Parameters have the names of the authors' code."""

    def __init__(self, classes: int) -> None:
        """Make the network with untrained weights."""
        super().__init__()
        self.first_conv = convolution(3, 32, 3, 2)
        self.blocks = nn.Sequential(*blocks(32))
        self.feature_mix_layer = convolution(320, 1280)
        self.global_avg_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(OrderedDict(linear=nn.Linear(1280, classes)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(batch, 3, height, width)`` to logits ``(batch, classes)``."""
        x = self.feature_mix_layer(self.blocks(self.first_conv(x)))
        return self.classifier(self.global_avg_pooling(x).flatten(1))


def blocks(channels: int) -> Iterator[nn.Module]:
    """All blocks. Removed blocks are identities, so that the numbering is that of the authors' code."""
    for width, stride, shapes in STAGES:
        for number, shape in enumerate(shapes):
            if shape is None:
                yield nn.Identity()
            else:
                kernel, expansion = shape
                yield InvertedResidual(channels, width, kernel, 1 if number else stride, expansion)
            channels = width


def convolution(
    channels: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """A convolution with BatchNorm, followed by ReLU6 if `activation`."""
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        "bn": nn.BatchNorm2d(width, eps=EPS),
    }
    if activation:
        layers["relu"] = nn.ReLU6(inplace=True)
    return nn.Sequential(OrderedDict(layers))


def proxyless_mobile(classes: int = 1000) -> ProxylessMobile:
    """ProxylessNet-Mobile for 224 x 224 pixels with untrained weights: 4.1 M parameters, 320 MMACs.

    Parameters have the names of the authors' code, so their weights should load. This is untested.
    """
    return ProxylessMobile(classes)
