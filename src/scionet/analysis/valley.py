"""The loss along the segment between two sets of weights: one valley, or a barrier in between?

Source: Frankle et al., *Linear Mode Connectivity and the Lottery Ticket Hypothesis*, ICML 2020. Two networks whose
units are permuted compute the same, and can have a barrier: compare networks of one training, such as a network and its
masked successor.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError, InvalidSetting
from scionet.masks.gradients import LossFunctional
from scionet.methods.repair.recalibration import norm_statistics
from scionet.network.calling import Batch, state_of, undisturbed
from scionet.network.comparison import class_scores
from scionet.network.example_loss import labelled
from scionet.network.guard import guarded
from scionet.network.network import Network
from scionet.torch_internals import BatchNormBase, tree_map


@dataclass(frozen=True)
class Valley:
    """The loss along a segment.

    Attributes:
        positions: From 0, the first weights, to 1, the second ones.
        losses: Mean cross-entropy at each position.
        accuracies: Share of examples that are classified correctly at each position.
    """

    positions: tuple[float, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """The largest height of the loss above the straight line between its two ends; 0 where it lies below."""
        return _highest(self.losses, np.interp(self.positions, (0, 1), (self.losses[0], self.losses[-1])))

    @property
    def rise(self) -> float:
        """The largest height of the loss above its higher end; 0 if no point between is above both ends."""
        return _highest(self.losses, max(self.losses[0], self.losses[-1]))

    @property
    def accuracy_barrier(self) -> float:
        """The largest drop of the accuracy below the mean of its two ends (Frankle et al.)."""
        return _highest([-rate for rate in self.accuracies], -(self.accuracies[0] + self.accuracies[-1]) / 2)


@guarded
def valley(
    model: nn.Module,
    second: nn.Module | Mapping[str, Tensor],
    batches: Iterable[Any],
    *,
    points: int = 21,
    recalibrate: bool = False,
) -> Valley:
    """Measure the loss along the segment from a network to another one of the same shapes, in float64.

    Args:
        model: The first network; not modified.
        second: The second network, or its state: parameters and buffers by name. A masked network has the shapes of the
            dense one, a cut network has not.
        batches: Pairs of inputs and labels.
        points: Points of the segment, with both ends.
        recalibrate: Measure the statistics of BatchNorms again at every point between the ends, since the mean of two
            variances is not the variance of the mean network. Otherwise buffers are interpolated, too.

    Raises:
        CalibrationError: If there are no batches, or labels are missing or do not match.
        InvalidSetting: If the second state is of another network, or there are fewer than two points.
    """
    if points < 2:
        raise InvalidSetting(f"points must be 2 or more, with both ends; given {points}")
    start = _floating(state_of(model))
    end = _floating(state_of(second) if isinstance(second, nn.Module) else second)
    _refuse_other(start, end)
    with undisturbed(model):
        pairs = [labelled(batch, model) for batch in batches]
    if not pairs:
        raise CalibrationError("no batches given; pass at least one pair (inputs, labels)")
    inputs: list[Batch] = [batch for batch, _ in pairs]
    positions = np.linspace(0, 1, points).tolist()
    found = []
    for position in positions:
        state = {name: torch.lerp(tensor, end[name], position) for name, tensor in start.items()}
        if recalibrate and 0 < position < 1 and any(isinstance(module, BatchNormBase) for module in model.modules()):
            state |= {
                name: tensor.double() for name, tensor in norm_statistics(model, state, inputs).items() if name in state
            }
        found.append(_measured(model, state, pairs))
    losses, accuracies = zip(*found, strict=True)
    return Valley(tuple(positions), losses, accuracies)


def _measured(model: nn.Module, state: Mapping[str, Tensor], pairs: list[tuple[Batch, Tensor]]) -> tuple[float, float]:
    """The loss and the accuracy with other tensors."""
    network = Network(model)
    correct = 0
    with undisturbed(model):
        for inputs, labels in pairs:
            scores = class_scores(network.returned(_double(inputs), state), network.outputs)
            correct += int((scores.argmax(1) == labels).sum())
    total = sum(len(labels) for _, labels in pairs)
    return LossFunctional(model, state, pairs).value({}), correct / total


def _double(inputs: Batch) -> Batch:
    return tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, inputs
    )


def _floating(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The floating-point tensors of a state, in float64."""
    return {name: tensor.detach().double() for name, tensor in state.items() if tensor.is_floating_point()}


def _refuse_other(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Compare names and shapes.

    Raises:
        InvalidSetting: If they differ.
    """
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (first, second)]
    if differ := sorted(
        name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
    ):
        name = differ[0]
        raise InvalidSetting(
            f"the two networks differ in {len(differ)} tensors, such as {name!r} ({shapes[0].get(name, 'missing')} and "
            f"{shapes[1].get(name, 'missing')}); give two of one architecture, masked and not cut"
        )


def _highest(values: Any, level: Any) -> float:
    return float(max(0.0, np.max(np.asarray(values) - level)))
