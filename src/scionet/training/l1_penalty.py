"""The L1 penalty of a recipe."""

from dataclasses import dataclass

from torch import Tensor

from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext


@dataclass(frozen=True)
class L1Penalty(Callback):
    """Adds weight · Σ |w| to the loss, over all trained parameters with two or more dimensions.

    Biases, and scales and shifts of norms, are left out. `Recipe.l1_weight` adds it to a training.

    Attributes:
        weight: Weight of the penalty.
    """

    weight: float

    def penalty(self, context: TrainingContext) -> Tensor | None:
        """The penalty; None if nothing is trained that has two dimensions."""
        trained = [p for p in context.network.parameters() if p.requires_grad and p.ndim > 1]
        sums = [parameter.abs().sum() for parameter in trained]
        return self.weight * sum(sums[1:], sums[0]) if sums else None
