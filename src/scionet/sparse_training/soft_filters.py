"""Soft filter pruning: filters are set to zero after each epoch, and may grow again."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from scionet.choices.shrinking import SoftFilters
from scionet.sparse_training.shrinker import Shrinker
from scionet.training.context import TrainingContext
from scionet.training.state import Epoch


@dataclass(eq=False)
class SoftFiltersShrinker(Shrinker):
    """Sets the filters and biases of the units of smallest L2 norm to zero after each epoch (He et al., IJCAI 2018).

    Scale and shift of a BatchNorm behind them stay, so that gradients reach the filters and they can come back. Such a
    unit still gives a constant. Therefore the network is validated without it: its columns in the consumers are zero
    meanwhile.

    Attributes:
        chosen: The units that were set to zero last.
    """

    choice: SoftFilters
    chosen: Tensor = field(init=False)
    _columns: dict[str, Tensor] | None = field(default=None, init=False)

    twin: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        """Start without a choice."""
        super().__post_init__()
        self.chosen = torch.zeros(self.units.count, dtype=torch.bool)

    def before_validation(self, context: TrainingContext) -> None:
        """Set filters to zero, and silence their units."""
        self._choose(context.network, context.epoch)
        parameters = dict(context.network.named_parameters())
        self._columns = {name: parameters[name].detach().clone() for name in self.units.columns.parameters}
        self.units.columns.zero_(parameters, self.chosen)

    @torch.no_grad()
    def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
        """Set filters to zero; let consumers read all units again."""
        if self._columns is None:
            self._choose(context.network, epoch.number)
        parameters = dict(context.network.named_parameters())
        for name, weight in (self._columns or {}).items():
            parameters[name].copy_(weight)
        self._columns = None
        super().after_epoch(context, epoch)

    def conclude(self, model: nn.Module) -> None:
        """Choose a last time."""
        self._choose(model, self.choice.every_epochs)

    @torch.no_grad()
    def scores(self, model: nn.Module) -> Tensor:
        """The L2 norm of each unit's filters."""
        return self.units.produced.of("weight").squared_norms(dict(model.named_parameters())).sqrt()

    def _choose(self, model: nn.Module, epoch: int) -> None:
        """Set the smallest filters to zero, if it is time to."""
        if epoch % self.choice.every_epochs:
            return
        assert self.targets.counts is not None, "the method needs counts"
        norms, units = self.scores(model), self.targets.units
        self.chosen = self.units.lowest(norms, self.targets.counts) if units is None else units.to(norms.device)
        self.units.produced.of("weight", "bias").zero_(dict(model.named_parameters()), self.chosen)
