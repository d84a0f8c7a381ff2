"""What is measured on validation data after every epoch: the accuracy, or the mean loss."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from scionet.errors import TrainingError
from scionet.network.calling import place_of, undisturbed
from scionet.network.multiprocess import summed
from scionet.training.accuracy import Accuracy

Measure = Literal["accuracy", "loss"]
"""What validation measures."""


@dataclass(frozen=True)
class MeanLoss:
    """The mean loss of a network on some examples, in eval mode, without penalties.

    Attributes:
        mean: The mean over all examples.
        seen: Number of examples.
    """

    quantity: ClassVar[str] = "loss"

    mean: float
    seen: int

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            TrainingError: If there is no example, or the loss is NaN or infinite.
        """
        if self.seen < 1 or not math.isfinite(self.mean):
            raise TrainingError(
                f"the mean loss of {self.seen} validation examples is {self.mean}; give examples on which the loss is "
                "a finite number"
            )

    def __str__(self) -> str:
        """The quantity and its value."""
        return f"loss {self.mean:.4g}"

    @property
    def value(self) -> float:
        """The mean loss."""
        return self.mean

    @property
    def score(self) -> float:
        """Larger for better weights."""
        return -self.mean


Validation = Accuracy | MeanLoss
"""A result on the validation data."""


def mean_loss(
    loss: Callable[[nn.Module, Any], Tensor], network: nn.Module, batches: Iterable[tuple[Any, int]]
) -> MeanLoss:
    """The mean loss on examples in eval mode. The network is left as it was.

    Where several processes validate together, each gives its share of the batches and gets the mean of all of them.

    Args:
        loss: Gives the mean loss of a batch from network and batch.
        network: The network.
        batches: Batches, each with the number of its examples.

    Raises:
        TrainingError: If there is no example, or the loss is NaN or infinite.
    """
    total = torch.zeros(2, dtype=torch.float64, device=place_of(network)[0])
    with undisturbed(network):
        for batch, count in batches:
            total += torch.stack([loss(network, batch).double() * count, total.new_tensor(count)])
    weighted, seen = summed(total).tolist()
    return MeanLoss(weighted / seen if seen else math.nan, int(seen))
