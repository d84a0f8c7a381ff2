"""Network slimming."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from scionet.choices.shrinking import Slimming
from scionet.sparse_training.shrinker import Shrinker
from scionet.training.context import TrainingContext


@dataclass(eq=False)
class SlimmingShrinker(Shrinker):
    """Adds an L1 penalty on the scales of the BatchNorms behind producers (Liu et al., ICCV 2017).

    With units to go, only their scales are penalised.
    """

    choice: Slimming

    needs_norms: ClassVar[bool] = True
    needs_counts: ClassVar[bool] = False
    twin: ClassVar[str] = "bn_scale"

    def penalty(self, context: TrainingContext) -> Tensor:
        """The weight of the penalty times the sum of the absolute scales."""
        return self.choice.l1_weight * self._scales(context.network).sum()

    @torch.no_grad()
    def scores(self, model: nn.Module) -> Tensor:
        """The absolute scale of each unit; of several producers their sum."""
        return self._scales(model)

    def _scales(self, model: nn.Module) -> Tensor:
        scales = self.units.produced.of("scale").absolute_sums(dict(model.named_parameters()))
        return scales if self.targets.units is None else scales * self.targets.units.to(scales.device)
