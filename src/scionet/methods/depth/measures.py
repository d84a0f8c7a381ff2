"""How much branches are missed: measured on held-out examples, or by the scores of their units."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scionet.choices.depth import MeasureName
from scionet.errors import InvalidSetting
from scionet.methods.method_run import MethodRun
from scionet.methods.widths.output_distance import OutputDistance
from scionet.network.example_loss import cross_entropies, labelled
from scionet.network.multiprocess import failing_together, summed
from scionet.typing import FloatArray

Replaced = Mapping[str, Tensor]
"""Tensors of a network without some branches."""


class Measure(Protocol):
    """How much a network's outputs suffer from changes."""

    def of_each(self, changes: Sequence[Replaced]) -> FloatArray:
        """The damage by each change, shape ``(changes,)``."""
        ...


class TaskLossRise:
    """The rise of the labelled task loss over that of the dense network."""

    def __init__(self, run: MethodRun) -> None:
        network = run.network
        with network.evaluating(), failing_together(network.device):
            pairs = [labelled(pair, network.model, network.outputs) for pair in run.judged.pairs]
        self._network, self._pairs = network, pairs
        self._dense = self._loss({})

    def of_each(self, changes: Sequence[Replaced]) -> FloatArray:
        """See `Measure`."""
        return np.array([self._loss(change) - self._dense for change in changes])

    def _loss(self, change: Replaced) -> float:
        """The mean loss, over all processes."""
        total = torch.zeros(2, dtype=torch.float64, device=self._network.device)
        with self._network.evaluating():
            for inputs, labels in self._pairs:
                losses = cross_entropies(self._network.class_scores(inputs, change), labels)
                total += torch.stack([losses.sum(), torch.full_like(losses.sum(), len(losses))])
        loss, count = summed(total).tolist()
        return loss / max(count, 1)


class OutputChange:
    """The distance of the outputs from those of the dense network."""

    def __init__(self, run: MethodRun, distance: OutputDistance) -> None:
        self._run, self._distance = run, distance

    def of_each(self, changes: Sequence[Replaced]) -> FloatArray:
        """See `Measure`."""
        return self._distance.of_each(changes, self._run.progress)


def measure_for(name: MeasureName, run: MethodRun, distance: OutputDistance | None) -> Measure:
    """The measure of a name; `distance` is that of the sensitivities, if there is one."""
    if name == "task_loss":
        return TaskLossRise(run)
    return OutputChange(run, run.distance_on(run.judged.inputs) if distance is None else distance)


def branch_scores(scores: Mapping[str, FloatArray], run: MethodRun, over_units: str) -> dict[str, float]:
    """The score of each branch with sites inside: the mean or the sum of the scores of all their units.

    Args:
        scores: The score of each unit of each site.
        run: The method at work.
        over_units: ``"mean"`` or ``"sum"``.

    Raises:
        InvalidSetting: If no branch has a site inside, or the scores are relative to the mean of their site.
    """
    found = {}
    for name, branch in run.sites.branches.items():
        if units := [scores[site] for site in branch.sites]:
            joined = np.concatenate(units)
            found[name] = float(joined.mean() if over_units == "mean" else joined.sum())
    inside = [scores[site].mean() for name in found for site in run.sites.branches[name].sites]
    if len(inside) > 1 and np.allclose(inside, inside[0], rtol=1e-9):
        raise InvalidSetting(
            f"the scores of method {run.ranker.name!r} are relative to the mean of their site, and so say nothing of "
            "whole branches; choose another score, such as 'bn_scale', 'energy' or 'taylor', or depth='branch_damage'"
        )
    if not found:
        raise InvalidSetting(
            "no residual branch has units that could be scored; choose branch_damage in place of scores"
        )
    return found
