"""Going back to where a training stood, with other weights or with some of them held at zero."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from scionet.errors import TrainingError
from scionet.training.callbacks import Callback
from scionet.training.state import TrainingState

Masks = Mapping[str, Tensor]
"""What stays of parameters: booleans of their shapes, by name."""


def rewound(early: TrainingState, masks: Masks, final: TrainingState | None = None) -> TrainingState:
    """An earlier state of a training, to go on from with a part of the weights.

    Without `final`, weights and memory of the optimiser go back too: *weight rewinding* (Frankle et al., "Stabilizing
    the Lottery Ticket Hypothesis", 2019), and for a state before the first step the lottery ticket of Frankle and
    Carbin (ICLR 2019). With `final`, its weights stay and only the schedule goes back: *learning-rate rewinding* (Renda
    et al., ICLR 2020); the optimiser then remembers nothing.

    Args:
        early: Where the schedule goes on: `FitResult.state` of a training that paused there (``until=``).
        masks: What stays of parameters; others stay whole.
        final: Where the training has ended, to keep its weights.

    Raises:
        TrainingError: If a mask is of no parameter, or of another shape, or the states are of different networks.
    """
    source = early if final is None else final
    if {n: t.shape for n, t in source.network.items()} != {n: t.shape for n, t in early.network.items()}:
        raise TrainingError("the two states are of different networks; give states of one training")
    _check(masks, source.network)
    network, memory = _masked(source.network, masks), early.memory if final is None else {}
    return replace(
        early,
        network=network,
        memory={name: _all_masked(kept, masks.get(name)) for name, kept in memory.items()},
        average=network if early.average else {},
        best=network if early.best else {},
    )


class HeldAtZero(Callback):
    """Keeps what masks remove at zero while a network is trained, whatever momentum and weight decay do."""

    def __init__(self, masks: Masks) -> None:
        """Keep what is True in `masks`, by names of parameters."""
        self._masks = dict(masks)

    @torch.no_grad()
    def after_step(self, network: nn.Module, step: int) -> None:
        """Set to zero again what has moved.

        Raises:
            TrainingError: If the masks are not of this network.
        """
        parameters = dict(network.named_parameters())
        if step == 1:
            _check(self._masks, parameters)
        for name, mask in self._masks.items():
            parameters[name].mul_(mask.to(parameters[name].device))


def _check(masks: Masks, tensors: Mapping[str, Tensor]) -> None:
    wrong = [name for name, mask in masks.items() if name not in tensors or tensors[name].shape != mask.shape]
    if wrong:
        raise TrainingError(
            f"{len(wrong)} masks fit no parameter, such as {wrong[0]!r}; give booleans of their shapes, by name"
        )


def _masked(tensors: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    return {name: tensor * masks[name] if name in masks else tensor for name, tensor in tensors.items()}


def _all_masked(kept: Mapping[str, Tensor], mask: Tensor | None) -> Mapping[str, Tensor]:
    """What an optimiser remembers of a parameter; numbers of steps stay."""
    if mask is None:
        return kept
    return {key: value * mask if value.shape == mask.shape else value for key, value in kept.items()}
