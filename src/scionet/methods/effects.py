"""What a site's width does to the network's output: measured at a few widths, in between as its error curve goes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError
from scionet.network.gates import call_with
from scionet.network.processes import summed
from scionet.network.running import Batch, call, example_count, tensors_of, to_model, undisturbed
from scionet.selection.objective import FloatArray
from scionet.settings import MetricName

DENSITIES = (0.125, 0.25, 0.5, 0.75)
"""Where each site is measured; the full width has no effect."""


@dataclass(frozen=True, eq=False)
class Gauge:
    """How far a network's output is from the dense one's on some examples.

    Attributes:
        model: The dense network.
        inputs: Batches on its device.
        outputs: What it gives for each of them.
        metric: ``"kl"``: mean divergence of the softmax over dimension 1, dense from changed, in nats; ``"squared"``:
            squared error relative to the mean square.
    """

    model: nn.Module
    inputs: Sequence[Batch]
    outputs: Sequence[Tensor]
    metric: MetricName

    @classmethod
    def of(cls, model: nn.Module, batches: Iterable[Batch], metric: MetricName) -> "Gauge":
        """Run the dense network once."""
        inputs = [to_model(batch, model) for batch in batches]
        with undisturbed(model):
            return cls(model, inputs, [_first(call(model, batch)) for batch in inputs], metric)

    def effect(self, tensors: Mapping[str, Tensor]) -> float:
        """How far the output moves when `tensors` take the place of the network's own.

        Raises:
            CalibrationError: If the output becomes NaN or infinite.
        """
        total = torch.zeros(2, dtype=torch.float64)
        with undisturbed(self.model):
            for batch, dense in zip(self.inputs, self.outputs, strict=True):
                changed = _first(call_with(self.model, tensors, batch))
                total += torch.stack(self._distance(dense, changed, example_count(batch))).cpu()
        distance, scale = summed(total.to(self.outputs[0].device)).tolist()
        if not np.isfinite(distance):
            raise CalibrationError("the pruned network gives NaN or infinite outputs; check the calibration data")
        return distance / max(scale, np.finfo(np.float64).tiny)

    def _distance(self, dense: Tensor, changed: Tensor, examples: int) -> tuple[Tensor, Tensor]:
        """Summed distance, and what it is relative to."""
        if self.metric == "squared":
            return (changed - dense).square().sum(), dense.square().sum()
        before, after = dense.log_softmax(1), changed.log_softmax(1)
        divergence = (before.exp() * (before - after)).sum(1).flatten(1 if dense.ndim > 2 else 0)
        per_example = divergence.mean(1) if dense.ndim > 2 else divergence
        return per_example.sum(), torch.tensor(float(examples), dtype=torch.float64, device=dense.device)


def measured_widths(width: int) -> list[int]:
    """The numbers of units at which a site of `width` units is measured, ascending."""
    return sorted({max(1, round(density * width)) for density in DENSITIES} - {width})


def effect_curve(errors: FloatArray, effects: Mapping[int, float]) -> FloatArray:
    """The effect of each width from a few measured ones.

    Between two measured widths the logarithm of the effect is linear in the logarithm of the site's own error; outside
    them the effect is proportional to the error.

    Args:
        errors: The site's error at each width, falling, shape ``(N + 1,)``.
        effects: Measured effect by width.

    Returns:
        Effect at each width, shape ``(N + 1,)``; 0 at N, infinite where `errors` is.
    """
    if not effects:
        return errors
    tiny = np.finfo(np.float64).tiny
    widths = np.array(sorted(effects))[::-1]
    levels = np.log(np.maximum(errors, tiny))
    points, heights = levels[widths], np.log(np.maximum([effects[int(w)] for w in widths], tiny))
    points, heights = np.maximum.accumulate(points), np.maximum.accumulate(heights)
    inside = np.interp(levels, points, heights)
    outside = np.where(levels < points[0], levels - points[0], np.maximum(levels - points[-1], 0.0))
    curve = np.exp(inside + outside)
    curve[-1] = 0.0
    return np.where(np.isfinite(errors), curve, np.inf)


def _first(outputs: Any) -> Tensor:
    """The network's first output, in at least single precision."""
    found = next(tensors_of(outputs))
    return found if found.dtype == torch.float64 else found.float()
