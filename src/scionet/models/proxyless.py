"""ProxylessNet-Mobile of Cai et al., *ProxylessNAS*, ICLR 2019: the result of their search for a mobile processor."""

from collections import OrderedDict
from collections.abc import Iterator

from torch import Tensor, nn

EPS = 1e-3
"""The epsilon of every BatchNorm."""
STAGES = (
    (16, 1, ((3, 1),)),
    (32, 2, ((5, 3), (3, 3), None, None)),
    (40, 2, ((7, 3), (3, 3), (5, 3), (5, 3))),
    (80, 2, ((7, 6), (5, 3), (5, 3), (5, 3))),
    (96, 1, ((5, 6), (5, 3), (5, 3), (5, 3))),
    (192, 2, ((7, 6), (7, 6), (7, 3), (7, 3))),
    (320, 1, ((7, 6),)),
)
"""For each stage: channels, stride, and (kernel size, expansion) of each block; None where the search left it out."""


class InvertedResidual(nn.Module):
    """An inverted residual block: expand the channels, apply a depthwise convolution, project."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        """Map `channels` to `width` channels; with a shortcut if input and output have the same shape."""
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
        """``(batch, channels, height, width)`` to ``(batch, width, height / stride, width / stride)``."""
        return self.mobile_inverted_conv(x) + x if self.residual else self.mobile_inverted_conv(x)


class ProxylessMobile(nn.Module):
    """ProxylessNet-Mobile, with the parameter names of the authors' code."""

    def __init__(self, classes: int) -> None:
        """Build the network with random weights."""
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
    """All blocks. Blocks that were left out are identities, so that the others have the authors' numbers."""
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
    """A convolution with BatchNorm and, if `activation` is set, ReLU6."""
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        "bn": nn.BatchNorm2d(width, eps=EPS),
    }
    if activation:
        layers["relu"] = nn.ReLU6(inplace=True)
    return nn.Sequential(OrderedDict(layers))


def proxyless_mobile(classes: int = 1000) -> ProxylessMobile:
    """ProxylessNet-Mobile for 224 x 224 pixels with random weights: 4.1 M parameters, 320 MMACs.

    Parameters have the names of the authors' code, so their weights should load; this has not been tested.
    """
    return ProxylessMobile(classes)
