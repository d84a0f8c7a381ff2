"""Channels with a mean that is large beside their variation: pruned in float32 as well as in float64."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from scionet import prune


def network(ratio: float, channels: Sequence[int], images: bool) -> nn.Module:
    """A network of two layers, some of whose 16 channels have a mean of `ratio` standard deviations."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(6, 16, 1), nn.Conv2d(16, 4, 3)) if images else (nn.Linear(6, 16), nn.Linear(16, 4))
    model = nn.Sequential(layers[0], nn.Softplus(), layers[1])
    first, some = dict(layers[0].named_parameters()), list(channels)
    with torch.no_grad():
        first["bias"][some] += ratio * first["weight"][some].flatten(1).norm(dim=1)
    return model


def error(model: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> float:
    """The error of the network pruned in a type, in standard deviations of the dense output, about its mean."""
    given = copy.deepcopy(model).to(dtype)
    result = prune(given, x.to(dtype).split(64), "macs<=60%", example_inputs=x[:2].to(dtype), widths="uniform")
    with torch.no_grad():
        dense, pruned = model.double()(x.double()), result.model.double()(x.double())
    gap = (pruned - dense).transpose(0, 1).flatten(1)
    return float((gap.square().mean(1).sqrt() / dense.transpose(0, 1).flatten(1).std(1)).mean())


@pytest.mark.parametrize(
    ("ratio", "channels", "images"),
    [(0.0, [3], True), (300.0, [3], False), (300.0, range(16), True), (1000.0, [3], True), (1000.0, range(16), False)],
)
def test_single_precision_is_as_good_as_double(ratio: float, channels: Sequence[int], images: bool) -> None:
    x = torch.randn(256, 6, 4, 4) if images else torch.randn(256, 6)
    model = network(ratio, channels, images)
    wide = error(copy.deepcopy(model), x, torch.float64)
    single = error(copy.deepcopy(model), x, torch.float32)
    assert single <= 1.05 * wide + 1e-3 * max(1.0, ratio / 100)  # the network itself rounds its large means
