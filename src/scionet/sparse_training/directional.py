"""Structured directional pruning: the optimiser moves units to zero along flat directions of the loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.choices.shrinking import Directional
from scionet.errors import InvalidSetting
from scionet.sparse_training.shrinker import Shrinker
from scionet.training.group_grda import GroupGRDA
from scionet.training.groups import ParameterGroups


@dataclass(eq=False)
class DirectionalShrinker(Shrinker):
    """Trains by `scionet.training.group_grda.GroupGRDA`, whose groups are the units; those at zero go.

    With units to go, only these are groups.
    """

    choice: Directional

    needs_counts: ClassVar[bool] = False
    twin: ClassVar[str] = "l2"

    def optimizer(self, model: nn.Module) -> Optimizer:
        """The optimiser with the learning rate and weight decay of the recipe, without momentum.

        Raises:
            InvalidSetting: If the recipe has momentum, which the method's theory is without.
        """
        if self.recipe.optimiser != "sgd" or self.recipe.momentum:
            raise InvalidSetting(
                "directional pruning is SGD without momentum, with a threshold: give a recipe with optimiser='sgd', "
                f"momentum=0 and nesterov=False, at best weight_decay=0 and schedule='constant' too; given "
                f"{self.recipe.optimiser!r} and momentum {self.recipe.momentum}"
            )
        named, groups = list(model.named_parameters()), self._groups
        rate, decay = self.recipe.learning_rate, self.recipe.weight_decay
        return GroupGRDA(named, groups, rate, self.choice.c, self.choice.mu, decay)

    @torch.no_grad()
    def scores(self, model: nn.Module) -> Tensor:
        """The norm of what the network's function sees of each unit."""
        return self.units.members(self.choice.members).seen.squared_norms(dict(model.named_parameters())).sqrt()

    @property
    def _groups(self) -> ParameterGroups:
        groups = self.units.members(self.choice.members)
        return groups if self.targets.units is None else groups.only(self.targets.units)
