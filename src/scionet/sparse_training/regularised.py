"""Growing weight decay on the units that are to go: IncReg, GReg-1 and GReg-2."""

import warnings
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scionet.choices.shrinking import GReg1, GReg2, IncReg
from scionet.sparse_training.averaged_ranks import AveragedRanks
from scionet.sparse_training.growing_decay import GrowingDecay
from scionet.sparse_training.shrinker import Shrinker
from scionet.training.context import TrainingContext
from scionet.training.groups import ParameterGroups

_SLOWNESS = 10
"""By default the largest weight decay grows to the target in a tenth of the training, if its rank stays 0; in the worst
case of the specification's table the last unit then goes after 5.3 tenths."""
_GROWING, _PICKING = 0.4, 0.2
"""By default, the parts of the training in which the weight decay grows, and in which units are picked."""


@dataclass(eq=False)
class DecayingShrinker(Shrinker):
    """Adds weight decay to the gradients of units, and holds removed ones at zero.

    Attributes:
        decays: Weight decay of each unit, float64 ``(units,)``.
        removed: Units that are gone for good.
    """

    decays: Tensor = field(init=False)
    removed: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Start without decay. Warn of a weight decay under which weights do not shrink gradually."""
        super().__post_init__()
        self.decays = torch.zeros(self.units.count, dtype=torch.float64)
        self.removed = self.decays.bool()
        rate, largest = self.recipe.learning_rate, self._largest
        if rate * largest > 1:
            warnings.warn(
                f"learning rate x target is {rate:g} x {largest:g} = {rate * largest:g}, above 1: weights do not "
                "shrink gradually, and may diverge from 2 (1 + momentum); lower one of them",
                stacklevel=4,
            )

    @property
    @abstractmethod
    def _largest(self) -> float:
        """The largest weight decay that a unit is to reach."""

    @abstractmethod
    def _update(self, model: nn.Module) -> None:
        """Change decays, and removed units."""

    @property
    def pulled(self) -> ParameterGroups:
        """What decays."""
        return self.units.members(self.choice.members)

    def on_start(self, context: TrainingContext) -> None:
        """Work on the network's device."""
        self.decays, self.removed = self.decays.to(context.device), self.removed.to(context.device)

    def before_step(self, context: TrainingContext) -> None:
        """Update the weight decays, if it is time to, and add them to the gradients, which are not clipped any more."""
        if (context.step - 1) % self.choice.every_steps == 0 and not self._finished:
            self._update(context.network)
        self.pulled.add_gradient_(dict(context.network.named_parameters()), self.decays)

    def after_step(self, context: TrainingContext) -> None:
        """Hold removed units at zero."""
        self._zero(context.network)

    def _zero(self, model: nn.Module) -> None:
        if bool(self.removed.any()):
            parameters = dict(model.named_parameters())
            self.units.produced.zero_(parameters, self.removed)
            if self.choice.members == "all":
                self.units.columns.zero_(parameters, self.removed)

    @property
    def _counts(self) -> tuple[int, ...]:
        assert self.targets.counts is not None, "the method needs counts"
        return self.targets.counts

    @property
    def _finished(self) -> bool:
        return int(self.removed.sum()) == sum(self._counts)

    def _remove(self, model: nn.Module, units: Tensor) -> None:
        """Remove units for good."""
        self.removed |= units
        self.decays[self.removed] = 0.0
        self._zero(model)

    @torch.no_grad()
    def scores(self, model: nn.Module) -> Tensor:
        """The importance of each unit that is left, above the 0 of removed ones."""
        found = self.units.importance(model)
        return found.masked_fill(self.removed.to(found.device), 0)

    def factors(self, model: nn.Module) -> Tensor:
        """The weight decays."""
        return self.decays


@dataclass(eq=False)
class IncRegShrinker(DecayingShrinker):
    """Weight decays that follow the average ranks of units (Wang et al., 2018 and 2019).

    Attributes:
        updates: Updates of the decays so far.
        rank_sums: Sums of the ranks so far; see `AveragedRanks`.
    """

    choice: IncReg
    updates: int = field(default=0, init=False)
    rank_sums: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Start without ranks."""
        super().__post_init__()
        self.rank_sums = self.units.table(self.decays.long())

    def on_start(self, context: TrainingContext) -> None:
        """Work on the network's device."""
        super().on_start(context)
        self.rank_sums = self.rank_sums.to(context.device)

    @property
    def _largest(self) -> float:
        return self.choice.target

    def _update(self, model: nn.Module) -> None:
        ranks = self._ranks()
        order = self.targets.order
        scores = self.units.importance(model) if order is None else order.to(self.decays.device)
        going = self.units.flat(ranks.update(self.units.table(scores)))
        self.updates, self.rank_sums = ranks.updates, ranks.rank_sums
        self.decays = self.units.flat(ranks.decays)
        # A site that is done has no decay any more: its survivors are trained as if nothing had happened.
        left = torch.tensor(self._counts, device=self.decays.device) - ranks.removed.sum(1)
        self.decays[(left == 0)[self.units.owners.to(left.device)]] = 0.0
        self._remove(model, going)

    def _ranks(self) -> AveragedRanks:
        """Where the ranks stand."""
        updates = -(-self.steps // self.choice.every_steps)
        increment = self.choice.increment or _SLOWNESS * self.choice.target / updates
        device = self.decays.device
        widths, counts = (torch.tensor(each, device=device) for each in (self.units.widths, self._counts))
        ranks = AveragedRanks(widths, counts, increment, self.choice.target, self.choice.u, self.choice.scheme)
        ranks.updates, ranks.decays = self.updates, self.units.table(self.decays)
        ranks.removed, ranks.rank_sums = self.units.table(self.removed.double()) > 0, self.rank_sums
        return ranks


@dataclass(eq=False)
class GRegShrinker(DecayingShrinker):
    """A common weight decay on picked units, which grows (GReg-1) or first picks them by growing on all (GReg-2).

    Attributes:
        phase: The phase and its numbers, as `GrowingDecay` has them.
        picked: The units that are to go, once they are picked.
    """

    choice: GReg1
    phase: dict[str, Any] = field(default_factory=dict, init=False)
    picked: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Start without picked units."""
        super().__post_init__()
        self.picked = self.removed.clone()

    def on_start(self, context: TrainingContext) -> None:
        """Work on the network's device."""
        super().on_start(context)
        self.picked = self.picked.to(context.device)

    @property
    def _largest(self) -> float:
        return self.choice.ceiling

    def _update(self, model: nn.Module) -> None:
        decay = self._decay()
        before = decay.phase
        decay.update(self._ratio(model) if before == "grow" else 1.0)
        self.phase = {name: getattr(decay, name) for name in ("decay", "ratio", "held", "phase")}
        if decay.phase == "pick":
            self.decays.fill_(decay.decay)
            return
        if not bool(self.picked.any()):
            self.picked = self._pick(model)
        # A negative decay cancels that of the recipe, as the authors' code does once units are picked (GReg-2).
        kept = -self.recipe.weight_decay if isinstance(self.choice, GReg2) else 0.0
        self.decays = torch.where(self.picked, decay.decay, kept)
        if decay.phase == "done":
            self._remove(model, self.picked)
            self.decays.zero_()

    def _pick(self, model: nn.Module) -> Tensor:
        """The units that are to go: those of lowest importance, or those that were given."""
        if self.targets.units is not None:
            return self.targets.units.to(self.decays.device)
        return self.units.lowest(self.units.importance(model), self._counts)

    def _ratio(self, model: nn.Module) -> float:
        """The mean importance of kept over that of picked units, the smallest of all sites."""
        if not bool(self.picked.any()):
            return 1.0
        table = self.units.table(self.units.importance(model).double())
        picked = self.units.table(self.picked.double())
        present = self.units.table(torch.ones_like(self.picked, dtype=torch.float64))
        means = [(table * part).sum(1) / part.sum(1).clamp_min(1) for part in (present - picked, picked)]
        ratios = means[0] / means[1].clamp_min(1e-300)
        return float(ratios[picked.any(1)].min())

    def _decay(self) -> GrowingDecay:
        """Where the decay stands."""
        choice, updates = self.choice, max(1, self.steps // self.choice.every_steps)
        increment = choice.increment or choice.ceiling / max(1, int(_GROWING * updates))
        hold = max(1, int(choice.hold * updates))
        if isinstance(choice, GReg2):
            picking = choice.pick_increment or choice.pick_ceiling / max(1, int(_PICKING * updates))
            return GrowingDecay(increment, choice.ceiling, hold, picking, choice.pick_ceiling, **self.phase)
        return GrowingDecay(increment, choice.ceiling, hold, **self.phase)
