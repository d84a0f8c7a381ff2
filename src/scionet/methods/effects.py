"""What a site's width does to the network's output: measured at one width, elsewhere as its error curve goes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError
from scionet.network.gates import call_with
from scionet.network.processes import everywhere, summed
from scionet.network.running import Batch, call, example_count, place_of, tensors_of, to_model, undisturbed
from scionet.selection.objective import FloatArray
from scionet.settings import MetricName

NEGLIGIBLE = 1e-6
"""Below this fraction of its largest value an error says nothing."""

_LEAST = 1e-12
"""Effects below this are rounding: a divergence can come out as less than 0."""


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
    def of(cls, model: nn.Module, batches: Iterable[Batch], metric: MetricName | None) -> "Gauge":
        """Run the dense network once.

        Args:
            model: The dense network.
            batches: Inputs.
            metric: None takes the divergence where there are two or more classes.

        Raises:
            CalibrationError: If there is no batch.
        """
        inputs = [to_model(batch, model) for batch in batches]
        if not everywhere(bool(inputs), place_of(model)[0]):
            raise CalibrationError(
                "the calibration data are empty; give an iterable of at least one batch of inputs (to every process, "
                "if there are several)"
            )
        with undisturbed(model):
            outputs = [_first(call(model, batch)) for batch in inputs]
        return cls(model, inputs, outputs, metric or metric_for(outputs[0]))

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


def metric_for(output: Tensor) -> MetricName:
    """The divergence of classes where there are two or more, else the squared error."""
    return "kl" if output.ndim > 1 and output.shape[1] > 1 else "squared"


def measured_width(errors: FloatArray) -> int:
    """The number of units at which a site is measured: half of them, or fewer if half of them do everything."""
    half = max(1, (len(errors) - 1) // 2)
    damaging = np.flatnonzero(errors[: half + 1] > NEGLIGIBLE * errors[np.isfinite(errors)].max())
    return max(1, int(damaging[-1])) if len(damaging) else half


def effect_curve(errors: FloatArray, width: int, effect: float) -> FloatArray:
    """The effect of each width: in proportion to the site's own error, as large as measured at one width.

    Args:
        errors: The site's error at each width, falling, shape ``(N + 1,)``.
        width: Where the effect was measured.
        effect: What was measured there.

    Returns:
        Effect at each width, shape ``(N + 1,)``; 0 at N, infinite where `errors` is.
    """
    excess = errors - errors[-1]
    slope = max(effect, _LEAST) / excess[width] if excess[width] > 0 else 1.0
    return np.where(np.isfinite(errors), excess * slope, np.inf)


def _first(outputs: Any) -> Tensor:
    """The network's first output, in at least single precision."""
    found = next(tensors_of(outputs))
    return found if found.dtype == torch.float64 else found.float()
