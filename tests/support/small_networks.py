"""Small networks whose sites are known by hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """Named layers, and a forward written as a function of the network and its inputs."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def conv(inputs: int, outputs: int, kernel: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **settings)


def pooled(x: Tensor) -> Tensor:
    return functional.adaptive_avg_pool2d(x, 1).flatten(1)


def chain() -> Net:
    """conv 3-4, BatchNorm, conv 4-6, linear 6-2."""
    return Net(
        lambda m, x: m.head(pooled(functional.relu(m.b(functional.relu(m.norm(m.a(x))))))),
        a=conv(3, 4, bias=False),
        norm=nn.BatchNorm2d(4),
        b=conv(4, 6),
        head=nn.Linear(6, 2),
    )


def residual() -> Net:
    """A stem of 6 channels, two blocks with 5 and 7 inner channels around its stream."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = functional.relu(m.stem(x))
        x = functional.relu(x + m.b1(functional.relu(m.a1(x))))
        x = functional.relu(m.b2(functional.relu(m.a2(x))) + x)
        return m.head(pooled(x))

    return Net(
        forward,
        stem=conv(3, 6),
        a1=conv(6, 5),
        b1=conv(5, 6),
        a2=conv(6, 7),
        b2=conv(7, 6),
        head=nn.Linear(6, 2),
    )


class SamePadding(nn.Conv2d):
    """A convolution that pads its input itself, more on the far side, as TensorFlow does."""

    def forward(self, input: Tensor) -> Tensor:
        padded = functional.pad(input, (0, 1, 0, 1))
        return functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def image(channels: int = 3, size: int = 8, batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
