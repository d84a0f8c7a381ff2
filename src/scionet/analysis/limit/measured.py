"""How many weights can really be removed: by magnitude at once, and with the kept weights optimised again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scionet.analysis.curvature import Curvature, curvature
from scionet.errors import InvalidSetting
from scionet.masks.keeping import keep_global, rounded_count
from scionet.masks.weights import maskable
from scionet.network.discovery.discover import Ignored
from scionet.network.guard import guarded

GRID = tuple(n / 100 for n in range(100, 0, -1))
"""Densities of one-shot pruning."""
COARSE = (0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
"""Densities at which the kept weights are optimised again."""
STEPS, RATE, MOMENTUM = 120, 0.1, 0.9
"""Gradient descent on all examples, with momentum."""


@dataclass(frozen=True)
class Measured:
    """The loss of the masked network, by density.

    Attributes:
        level: The loss of the network plus the tolerance.
        densities: Fractions of the weights kept, descending.
        losses: Loss at each of them.
    """

    level: float
    densities: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def lowest(self) -> float | None:
        """The lowest density at which the loss stays within the tolerance; None if it never does."""
        within = [d for d, loss in zip(self.densities, self.losses, strict=True) if loss <= self.level]
        return min(within, default=None)


@guarded
def one_shot(
    model: nn.Module,
    batches: Iterable[Any],
    level: float,
    densities: Sequence[float] = GRID,
    *,
    ignored_layers: Ignored = (),
) -> Measured:
    """Remove the smallest weights of a network at once, and change nothing else.

    Args:
        model: The network; not modified.
        batches: Pairs of inputs and labels.
        level: The loss that must not be exceeded.
        densities: Fractions of the weights to keep.
        ignored_layers: Layers whose weights are not removed.

    Raises:
        InvalidSetting: If a density is not from 0 to 1.
        CalibrationError: If there are no batches, or labels are missing or do not match.
    """
    return _measured(
        model, batches, level, densities, ignored_layers, lambda around, mask: around.value(around.point * mask)
    )


@guarded
def reoptimised(
    model: nn.Module,
    batches: Iterable[Any],
    level: float,
    densities: Sequence[float] = COARSE,
    *,
    ignored_layers: Ignored = (),
) -> Measured:
    """Remove the smallest weights, then lower the loss over all others by gradient descent on all examples.

    Each loss is the lowest one on the way, which ends where the level is reached. Arguments and errors are those of
    `one_shot`.
    """

    def lowest(around: Curvature, mask: Tensor) -> float:
        at, velocity = around.point * mask, torch.zeros_like(mask, dtype=around.point.dtype)
        best = around.value(at)
        for _ in range(STEPS):
            if best <= level:
                break
            velocity = MOMENTUM * velocity + around.gradient(at) * mask
            at = at - RATE * velocity
            best = min(best, around.value(at))
        return best

    return _measured(model, batches, level, densities, ignored_layers, lowest)


def _measured(
    model: nn.Module,
    batches: Iterable[Any],
    level: float,
    densities: Sequence[float],
    ignored_layers: Ignored,
    loss: Callable[[Curvature, Tensor], float],
) -> Measured:
    """The loss with each mask.

    Raises:
        InvalidSetting: If a density is not from 0 to 1.
    """
    if not densities or not all(0 <= density <= 1 for density in densities):
        raise InvalidSetting(f"densities lie between 0 and 1, and there is one or more; given {tuple(densities)}")
    descending = tuple(sorted(densities, reverse=True))
    weights = maskable(model, ignored_layers)
    around = curvature(model, batches, ["*"])
    losses = tuple(loss(around, _mask(around, weights, density)) for density in descending)
    return Measured(level, descending, losses)


def _mask(around: Curvature, weights: dict[str, Tensor], density: float) -> Tensor:
    """Keep the largest of these weights and all other parameters; booleans over the parameters of `around`."""
    sizes = {name: weight.abs() for name, weight in weights.items()}
    anywhere = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    total = sum(weight.numel() for weight in weights.values())
    kept = keep_global(sizes, anywhere, rounded_count(density, total))
    everything = {name: torch.ones_like(w, dtype=torch.bool) for name, w in around.weights.items()}
    return torch.cat([mask.flatten() for mask in (everything | kept).values()])
