"""The exponential average of a network's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from scionet.network.calling import state_of


def tensors_of_network(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, detached but not copied; tied ones under their first name."""
    first: dict[int, str] = {}
    state = state_of(network)
    return {name: t.detach() for name, t in state.items() if first.setdefault(id(t), name) == name}


def copies(tensors: Mapping[str, Tensor], device: str | torch.device | None = None) -> dict[str, Tensor]:
    """Detached copies."""
    return {name: tensor.detach().to(device, copy=True) for name, tensor in tensors.items()}


def overwrite(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy values into a network's parameters and buffers."""
    state = state_of(network)
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


class WeightAverage:
    """θ̄ ← d θ̄ + (1 − d) θ after every step, over parameters and floating-point buffers.

    The decay d of step t (from 1) is min(decay, (1 + t) / (10 + t)), so the first values soon have little influence.
    This is the rule of TensorFlow's ExponentialMovingAverage with ``num_updates``.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay = network, decay
        self.tensors = copies(tensors_of_network(network))

    def update(self, step: int) -> None:
        """Add the weights after a step (from 1) to the average."""
        current = tensors_of_network(self._network)
        floats = [name for name, tensor in current.items() if tensor.is_floating_point()]
        decay = min(self._decay, (1 + step) / (10 + step))
        mean = [self.tensors[name] for name in floats]
        get_ema_multi_avg_fn(decay)(mean, [current[name] for name in floats], step)
        for name in current.keys() - set(floats):
            self.tensors[name].copy_(current[name])


@contextmanager
def exchanged(network: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Exchange a network's values for others for the duration of the block."""
    before = copies(tensors_of_network(network))
    overwrite(network, tensors)
    try:
        yield
    finally:
        overwrite(network, before)
