"""Shrinker: the callback that all methods share which shrink a network while it is trained."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.choices.checking import described
from scionet.errors import InvalidSetting
from scionet.methods.units import Units
from scionet.network.sites import Sites
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.recipes import Recipe
from scionet.training.state import Epoch

_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MUCH = 0.05
"""Share of the weights from which a removal is a warning: what the training should have prepared hurts."""


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to go.

    Attributes:
        counts: The number of units of each site that are to go; None if the method finds that out by itself.
        units: The units that are to go, boolean ``(units,)``; None if the method chooses them.
        order: The rank of each unit, lowest first to go, ``(units,)``; None if the method ranks them.
    """

    counts: tuple[int, ...] | None = None
    units: Tensor | None = None
    order: Tensor | None = None


@dataclass(eq=False)
class Shrinker(Callback):
    """Drives units of a network towards zero while it is trained.

    Attributes:
        choice: The method, with its settings.
        units: The units of the network.
        targets: What is to go.
        recipe: The recipe of the training.
        steps: Steps of the whole training.
        trace: What was observed after each epoch, as JSON values.
    """

    choice: Any
    units: Units
    targets: Targets
    recipe: Recipe
    steps: int
    trace: list[dict[str, Any]] = field(default_factory=list, init=False)

    needs_norms: ClassVar[bool] = False
    """Whether every unit needs a BatchNorm behind each producer."""
    needs_counts: ClassVar[bool] = True
    """Whether the method must know how many units are to go."""
    twin: ClassVar[str] = "l1"
    """The score of `scionet.prune` that ranks units as the method does, or comes nearest to it: its one-shot twin."""

    def __post_init__(self) -> None:
        """Check the network and the targets.

        Raises:
            InvalidSetting: If they do not fit the method.
        """
        if self.needs_norms and (lacking := self.units.without("scale")):
            raise InvalidSetting(
                f"{type(self.choice).__name__} shrinks the scales of BatchNorms; of the layers "
                f"{', '.join(lacking[:6])}{', ...' if len(lacking) > 6 else ''} some producer has no BatchNorm with a "
                "scale behind it. Keep these whole with Limits(ignored_layers=[...]), or choose a method that "
                "needs no BatchNorm, such as IncReg"
            )

    @classmethod
    def drops_branches(cls, choice: Any) -> bool:
        """Whether residual branches shrink, which are dropped, and not units."""
        return False

    @classmethod
    def units_of(cls, choice: Any, model: nn.Module, sites: Sites) -> Units:
        """What shrinks in a network."""
        return Units.of(model, sites)

    @property
    def name(self) -> str:
        """Name in the history of a training."""
        return type(self.choice).__name__

    @abstractmethod
    def scores(self, model: nn.Module) -> Tensor:
        """What each unit is worth at the end of the training, ``(units,)``; the lowest ones go."""

    def factors(self, model: nn.Module) -> Tensor:
        """What the method drives, for the trace, ``(units,)``; by default the scores."""
        return self.scores(model)

    def final_scores(self, model: nn.Module) -> dict[str, Tensor]:
        """What each unit is worth at the end of the training, ``(width,)`` by site; the lowest ones go."""
        units = self.targets.units
        return self.units.by_site(self.scores(model).detach() if units is None else (~units).double())

    def told(self, model: nn.Module, kept: Mapping[str, tuple[int, ...]]) -> str:
        """How near to zero the removed units were before the cut, as a sentence.

        Args:
            model: The network after the training.
            kept: The kept units of each site.
        """
        sites = zip(self.units.sites, self.units.widths, strict=True)
        gone = torch.cat([~torch.isin(torch.arange(n), torch.tensor(kept.get(name, [*range(n)]))) for name, n in sites])
        norms = self.units.importance(model).double().cpu()
        if not bool(gone.any()):
            return "nothing was removed"
        share = float(norms[gone].sum() / norms.sum()) if bool(norms.sum() > 0) else 0.0
        things = "branches" if self.drops_branches(self.choice) else "units"
        advice = "; train longer, or let them shrink faster" if share > _MUCH else ""
        count = f"{int(gone.sum()):,} of {len(gone):,} {things}"
        what = f"the {count} that were removed had {share:.2g} of the weights before"
        return f"{'warning: ' if advice else ''}{what}{advice}"

    def conclude(self, model: nn.Module) -> None:
        """The training is over; the network may be changed a last time."""

    def optimizer(self, model: nn.Module) -> Optimizer | None:
        """The optimiser to train with; None for the recipe's.

        Raises:
            InvalidSetting: If the recipe does not fit the method's optimiser.
        """
        return None

    def settings(self) -> Mapping[str, Any]:
        """All that the training depends on, as JSON."""
        return {"method": described(self.choice), "units": self._digest(), "steps": self.steps}

    def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
        """Note what there is to see."""
        self.trace.append({"epoch": epoch.number, **self.observed(context.network)})

    @torch.no_grad()
    def observed(self, model: nn.Module) -> dict[str, Any]:
        """Quantiles of the factors (0, 25, 50, 75 and 100 %) and the number of units whose score is 0."""
        factors = self.factors(model).double()
        levels = torch.tensor(_LEVELS, dtype=torch.float64, device=factors.device)
        at_zero = int((self.scores(model) == 0).sum())
        return {"factors": factors.quantile(levels).tolist(), "at_zero": at_zero}

    def _digest(self) -> str:
        """A hash of units and targets."""
        digest = hashlib.sha256(repr((self.units.sites, self.units.widths, self.targets.counts)).encode())
        for tensor in (self.targets.units, self.targets.order):
            digest.update(b"-" if tensor is None else tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]
