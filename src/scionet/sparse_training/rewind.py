"""Rewinding: a training goes back to an earlier state, with some of its weights held at zero."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from scionet.errors import TrainingError
from scionet.modes import at_work
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.state import TrainingState

Masks = Mapping[str, Tensor]
"""Masks by the names of parameters: booleans of their shapes, True where a weight is kept."""


@at_work()
def rewound(early: TrainingState, masks: Masks, final: TrainingState | None = None) -> TrainingState:
    """Return an earlier state of a training, with only the weights that masks keep.

    Without `final`, weights and the optimiser's state are rewound: *weight rewinding* (Frankle et al., "Stabilizing
    the Lottery Ticket Hypothesis", 2019). From a state before the first step, this is the lottery ticket of Frankle and
    Carbin (ICLR 2019). With `final`, the network keeps its final weights and only the schedule is rewound:
    *learning-rate rewinding* (Renda et al., ICLR 2020). The optimiser's state is then empty.

    Callbacks start from the beginning.

    Args:
        early: The state to go back to: `FitResult.state` of a training that paused there (``until=``).
        masks: The weights to keep; parameters without a mask are kept whole.
        final: The state at the end of the training, to keep its weights.

    Raises:
        TrainingError: If a mask fits no parameter, or the states are of different networks.
    """
    source = early if final is None else final
    if {n: t.shape for n, t in source.network.items()} != {n: t.shape for n, t in early.network.items()}:
        raise TrainingError("the two states are of different networks; give states of one training")
    _refuse_misfit(masks, source.network)
    network, memory = _masked(source.network, masks), early.memory if final is None else {}
    return replace(
        early.with_new_callbacks(),
        network=network,
        memory={name: _all_masked(kept, masks.get(name)) for name, kept in memory.items()},
        average=network if early.average else {},
        best=network if early.best else {},
    )


@dataclass(frozen=True, eq=False)
class HeldAtZero(Callback):
    """A callback that holds the weights that masks remove at zero, whatever momentum and weight decay do.

    They are zero in all that the network may end with: its last weights, their average, and the best ones, also those
    of the state that a training starts from. Give it behind callbacks that change weights.

    Attributes:
        masks: The weights to keep; the others are held at zero.
    """

    masks: Masks
    _removed: dict[torch.device, Masks] = field(default_factory=dict, init=False, repr=False)

    def state(self) -> Mapping[str, Any]:
        """Nothing: all follows from the masks, which are a setting."""
        return {}

    def on_start(self, context: TrainingContext) -> None:
        """Set removed weights to zero.

        Raises:
            TrainingError: If the masks are not of this network.
        """
        for tensors in (dict(context.network.named_parameters()), *context.other_weights):
            self._hold(tensors, context.device)

    def after_step(self, context: TrainingContext) -> None:
        """Set removed weights to zero again; the average follows.

        Raises:
            TrainingError: If the masks are not of this network.
        """
        self._hold(dict(context.network.named_parameters()), context.device)

    @torch.no_grad()
    def _hold(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        _refuse_misfit(self.masks, tensors)
        if device not in self._removed:  # masks are copied to a GPU once
            self._removed[device] = {name: ~mask.to(device) for name, mask in self.masks.items()}
        for name, removed in self._removed[device].items():
            tensors[name].masked_fill_(removed, 0)


def _refuse_misfit(masks: Masks, tensors: Mapping[str, Tensor]) -> None:
    """Compare masks with parameters.

    Raises:
        TrainingError: If a mask fits no parameter.
    """
    wrong = [
        name
        for name, mask in masks.items()
        if name not in tensors or tensors[name].shape != mask.shape or mask.dtype != torch.bool
    ]
    if wrong:
        raise TrainingError(
            f"{len(wrong)} masks fit no parameter, such as {wrong[0]!r}; give booleans of their shapes, by name"
        )


def _masked(tensors: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    return {name: tensor * masks[name] if name in masks else tensor for name, tensor in tensors.items()}


def _all_masked(kept: Mapping[str, Tensor], mask: Tensor | None) -> Mapping[str, Tensor]:
    """An optimiser's state of one parameter, masked; what has another shape, such as a count of steps, is kept."""
    if mask is None:
        return kept
    return {key: value * mask if value.shape == mask.shape else value for key, value in kept.items()}
