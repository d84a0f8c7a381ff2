"""Sparse structure selection: a factor on the output of each unit, which may become an exact zero."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from scionet.choices.shrinking import SparseStructures
from scionet.methods.units import Units
from scionet.network.sites import Sites
from scionet.sparse_training.proximal import proximal_step
from scionet.sparse_training.shrinker import Shrinker
from scionet.training.context import TrainingContext
from scionet.training.groups import ParameterGroups


@dataclass(eq=False)
class SparseStructuresShrinker(Shrinker):
    """Multiplies each unit's output by a factor that starts at 1, and drives the factors to zero (Huang, Wang, 2018).

    A factor multiplies what the network's function sees of a unit: the scale and shift of the BatchNorm behind it, or
    its filter and bias. The parameters of the network are these products. During a step of the optimiser they are the
    raw values instead, with the gradients of these; so weight decay and momentum act on the raw values.

    Attributes:
        factor: The factor of each unit.
        velocity: Its velocity.
        raw: The parameters without their factors, by name.
    """

    choice: SparseStructures
    factor: Tensor = field(init=False)
    velocity: Tensor = field(init=False)
    raw: dict[str, Tensor] = field(default_factory=dict, init=False)

    needs_counts: ClassVar[bool] = False
    twin: ClassVar[str] = "bn_scale"

    def __post_init__(self) -> None:
        """Start with factors of 1."""
        super().__post_init__()
        self.factor, self.velocity = torch.ones(self.units.count), torch.zeros(self.units.count)

    @classmethod
    def drops_branches(cls, choice: SparseStructures) -> bool:
        """Whether branches have the factors."""
        return choice.structures == "branches"

    @classmethod
    def units_of(cls, choice: SparseStructures, model: nn.Module, sites: Sites) -> Units:
        """The units, or the residual branches."""
        return Units.of_branches(model, sites) if cls.drops_branches(choice) else Units.of(model, sites)

    @property
    def seen(self) -> ParameterGroups:
        """What the factors multiply."""
        return self.units.produced.seen

    def on_start(self, context: TrainingContext) -> None:
        """Work on the network's device; note the raw values, if the training begins."""
        self.factor, self.velocity = self.factor.to(context.device), self.velocity.to(context.device)
        if not self.raw:
            self.raw = {name: weight.detach().clone() for name, weight in self._weights(context.network).items()}

    @torch.no_grad()
    def before_step(self, context: TrainingContext) -> None:
        """Take one step of the factors, and let the optimiser see the raw values."""
        weights = self._weights(context.network)
        gradients = {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in weights.items()}
        slope = self.seen.dots(self.raw, gradients).to(self.factor)
        self.seen.scale_(gradients, self.factor)
        for name, weight in weights.items():
            weight.copy_(self.raw[name])
        if bool(slope.isfinite().all()):  # in float16 the optimiser skips a step with infinite gradients
            settings = context.learning_rate, self.choice.l1_weight, self.choice.momentum
            factor, velocity = proximal_step(self.factor, self.velocity, slope, *settings)
            free = torch.ones_like(factor) if self.targets.units is None else self.targets.units.to(factor)
            self.factor = torch.where(free > 0, factor, self.factor)
            self.velocity = velocity * free

    @torch.no_grad()
    def after_step(self, context: TrainingContext) -> None:
        """Keep the new raw values, and multiply them by the factors."""
        weights = self._weights(context.network)
        self.raw = {name: weight.detach().clone() for name, weight in weights.items()}
        self.seen.scale_(weights, self.factor)

    def scores(self, model: nn.Module) -> Tensor:
        """The factor of each unit."""
        return self.factor

    def _weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        parameters = dict(model.named_parameters())
        return {name: parameters[name] for name in self.seen.parameters}
