"""The context of a training that every hook of a callback receives."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.network.calling import place_of
from scionet.network.multiprocess import world


@dataclass(frozen=True, eq=False)
class TrainingContext:
    """The training at the moment at which a hook of a callback runs.

    `fit` makes one for every step. In your own loop, make it yourself and pass every value that the callback uses. The
    defaults describe the first step of a training.

    Attributes:
        network: The network that learns: never a wrapper, never a compiled copy.
        optimizer: Its optimiser.
        step: Number of the current step, from 1. Between steps, the number of steps done.
        epoch: Number of the current epoch, from 1.
        steps_per_epoch: Steps of a full epoch.
        seed: Seed of the training.
        other_weights: What the network may end with instead of its last weights: their average, and the best ones so
            far, each by name. A callback that sets weights of the network to zero for good does the same here.
    """

    network: nn.Module
    optimizer: Optimizer
    step: int = 1
    epoch: int = 1
    steps_per_epoch: int = 1
    seed: int = 0
    other_weights: tuple[Mapping[str, Tensor], ...] = ()

    @property
    def learning_rate(self) -> float:
        """Current learning rate of the optimiser's first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return place_of(self.network)[0]

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes files, where several train together."""
        return world()[0] == 0
