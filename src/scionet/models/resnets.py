"""Small residual networks: the CIFAR ResNets of He et al., and one for handwritten digits."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional


class PaddedShortcut(nn.Module):
    """The parameter-free shortcut of He et al., option A: subsample pixels and pad channels with zeros."""

    def __init__(self, stride: int, added: int) -> None:
        """Keep every `stride`-th pixel; add half of the `added` channels before and half after the existing ones."""
        super().__init__()
        self.stride = stride
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to ``(batch, channels + added, height / stride, width / stride)``."""
        before = self.added // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.added - before))


class Residual(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, shortcut: nn.Module, inner: int | None = None) -> None:
        """Map `channels` to `width` channels; `shortcut` must return the same shape.

        Args:
            channels: Channels of the input.
            width: Channels of the output.
            stride: Stride of the first convolution.
            shortcut: What is added.
            inner: Channels between the convolutions; by default `width`.
        """
        super().__init__()
        inner = width if inner is None else inner
        self.conv1 = nn.Conv2d(channels, inner, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))."""
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def padded(channels: int, width: int, stride: int) -> nn.Module:
    """The shortcut of option A from `channels` to `width` channels."""
    return PaddedShortcut(stride, width - channels)


def projection(channels: int, width: int, stride: int) -> nn.Module:
    """The shortcut of option B from `channels` to `width` channels: a 1 x 1 convolution with BatchNorm."""
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


class CifarResNet(nn.Module):
    """The CIFAR ResNet of He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2.

    Three stages with 16, 32 and 64 channels and 2n convolutions each.
    """

    def __init__(self, blocks: int, classes: int = 10, shortcut: Callable[[int, int, int], nn.Module] = padded) -> None:
        """Make the network.

        Args:
            blocks: Number of residual blocks per stage; the depth is 6 * blocks + 2.
            classes: Number of classes.
            shortcut: Makes a shortcut that changes the width, from channels, width and stride.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(Residual(16, 16, 1, nn.Identity()), 16, blocks)
        self.layer2 = self._stage(Residual(16, 32, 2, shortcut(16, 32, 2)), 32, blocks)
        self.layer3 = self._stage(Residual(32, 64, 2, shortcut(32, 64, 2)), 64, blocks)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(first: Residual, width: int, blocks: int) -> nn.Sequential:
        """Blocks of one width; the first may change width and resolution."""
        return nn.Sequential(first, *(Residual(width, width, 1, nn.Identity()) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(batch, 3, 32, 32)`` to logits ``(batch, classes)``."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet20(classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-20: 0.27 M parameters, 41 MMACs."""
    return CifarResNet(3, classes)


def resnet32(classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-32: 0.46 M parameters, 69 MMACs."""
    return CifarResNet(5, classes)


def resnet44(classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-44: 0.66 M parameters, 97 MMACs."""
    return CifarResNet(7, classes)


def resnet56(classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-56: 0.85 M parameters, 125 MMACs."""
    return CifarResNet(9, classes)


def resnet110(classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-110: 1.73 M parameters, 253 MMACs."""
    return CifarResNet(18, classes)


def resnet20_projection(classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-20 with projection shortcuts: 0.27 M parameters, 41 MMACs."""
    return CifarResNet(3, classes, projection)


def resnet32_projection(classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-32 with projection shortcuts: 0.47 M parameters, 69 MMACs."""
    return CifarResNet(5, classes, projection)


def resnet56_projection(classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-56 with projection shortcuts: 0.86 M parameters, 126 MMACs."""
    return CifarResNet(9, classes, projection)


def resnet110_projection(classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-110 with projection shortcuts: 1.73 M parameters, 253 MMACs."""
    return CifarResNet(18, classes, projection)


class DigitsNet(nn.Module):
    """A small residual network for 8 x 8 digits: blocks of 16, 32 and 64 channels with projection shortcuts."""

    def __init__(self) -> None:
        """Make the network with untrained weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.block1 = Residual(16, 16, 1, nn.Identity())
        self.block2 = Residual(16, 32, 1, projection(16, 32, 1))
        self.block3 = Residual(32, 64, 2, projection(32, 64, 2))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(batch, 1, 8, 8)`` to logits ``(batch, 10)``."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def digits_cnn() -> DigitsNet:
    """The demo's network: 78,000 parameters, 2.1 MMACs."""
    return DigitsNet()
