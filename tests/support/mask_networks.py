"""Networks to mask, and batches for them."""

from itertools import pairwise

import torch
from torch import Tensor, nn


def sizes_mlp(*sizes: int, bias: bool = True, seed: int = 0, he: bool = False) -> nn.Sequential:
    """Linear maps with ReLU in between."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for before, after in pairwise(sizes):
            layer = nn.Linear(before, after, bias=bias).double()
            if he:
                nn.init.kaiming_normal_(layer.weight)
            layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double().eval()


def small_vgg(seed: int = 0) -> nn.Sequential:
    """Five convolutions with BatchNorm, and a classifier."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for before, after in ((3, 16), (16, 32), (32, 64), (64, 64), (64, 64)):
            conv = nn.Conv2d(before, after, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10)).eval()


def pairs(count: int, *shape: int, classes: int = 4, seed: int = 1, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """One batch of inputs and labels."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(count, *shape, generator=rng, dtype=dtype), torch.randint(classes, (count,), generator=rng)]
