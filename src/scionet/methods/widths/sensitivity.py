"""What a site's width does to the network's output: measured at few widths, elsewhere as its error curve goes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.network.calling import Batch, call, joined, place_of, tensors_of, to_model, undisturbed
from scionet.network.multiprocess import everywhere, summed
from scionet.network.passes.variants import run_variants
from scionet.progress import Progress, silent
from scionet.selection.objective import FloatArray
from scionet.settings import MetricName

NEGLIGIBLE = 1e-6
"""Below this fraction of its largest value an error says nothing."""

_LEAST = 1e-12
"""Effects below this are rounding: a divergence can come out as less than 0."""


@dataclass(frozen=True, eq=False)
class OutputDistance:
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
    def of(cls, model: nn.Module, batches: Iterable[Batch], metric: MetricName | None) -> "OutputDistance":
        """Run the dense network once.

        Args:
            model: The dense network.
            batches: Inputs.
            metric: None takes the divergence where there are two or more classes.

        Raises:
            CalibrationError: If there is no batch.
            UnsupportedModel: If its output has no classes for ``"kl"``.
        """
        with undisturbed(model):  # a data loader takes its seed from torch's generator
            inputs = [to_model(batch, model) for batch in batches]
        if not everywhere(bool(inputs), place_of(model)[0]):
            raise CalibrationError(
                "the calibration data are empty; give an iterable of at least one batch of inputs (to every process, "
                "if there are several)"
            )
        with undisturbed(model):
            outputs = [_first(call(model, batch)) for batch in inputs]
        for output in outputs[:1] if metric == "kl" else ():
            refuse_without_classes(output.shape)
        return cls(model, inputs, outputs, metric or metric_for(outputs[0]))

    @cached_property
    def n_examples(self) -> float:
        """Examples of all processes."""
        return self._summed(sum(map(len, self.outputs)))

    @cached_property
    def unit(self) -> float:
        """What distances are measured in: a nat, or the mean square of the dense output of an example."""
        if self.metric == "kl":
            return 1.0
        squares = self._summed(sum(float(output.double().square().sum()) for output in self.outputs))
        return max(squares, np.finfo(np.float64).tiny) / max(self.n_examples, 1)

    def effect(self, tensors: Mapping[str, Tensor]) -> float:
        """How far the output moves when `tensors` take the place of the network's own.

        Raises:
            CalibrationError: If the output becomes NaN or infinite.
        """
        return float(self.effects([tensors])[0])

    def effects(self, changes: Sequence[Mapping[str, Tensor]], progress: Progress = silent) -> FloatArray:
        """How far the output moves with each of the `changes`, shape ``(changes,)``; see `effect`.

        Raises:
            CalibrationError: If the output becomes NaN or infinite.
        """
        total, done = torch.zeros(len(changes), dtype=torch.float64, device=place_of(self.model)[0]), 0
        progress("measure", done, sum(map(len, self.outputs)))
        for batch, dense in joined(zip(self.inputs, self.outputs, strict=True)):  # a call of one form is recorded once
            rest = dense
            for outputs in run_variants(self.model, changes, batch):
                here, rest = rest[: len(outputs[0])], rest[len(outputs[0]) :]
                total += torch.stack([distances(output, here, self.metric).sum() for output in outputs])
                done += len(here)
                progress("measure", done, sum(map(len, self.outputs)))
        distance = summed(total).cpu().numpy()
        if not np.isfinite(distance).all():
            raise CalibrationError("the pruned network gives NaN or infinite outputs; check the calibration data")
        return distance / self.n_examples / self.unit

    def _summed(self, number: float) -> float:
        return float(summed(torch.tensor(number, dtype=torch.float64, device=place_of(self.model)[0])))


def distances(changed: Any, dense: Tensor, metric: MetricName) -> Tensor:
    """How far each example's output is from the dense one, float64, shape ``(examples,)``.

    Args:
        changed: What the network gives.
        dense: The first tensor that the dense network gives, ``(examples, ...)``.
        metric: ``"kl"``: divergence of the softmax over dimension 1, in the mean over positions; ``"squared"``: the sum
            of squared differences.
    """
    if metric == "squared":
        return (_first(changed) - dense).square().reshape(len(dense), -1).sum(1).double()
    before, after = dense.log_softmax(1), _first(changed).log_softmax(1)
    return (before.exp() * (before - after)).sum(1).reshape(len(dense), -1).mean(1).double()


def refuse_without_classes(shape: Sequence[int]) -> None:
    """A divergence needs classes.

    Raises:
        UnsupportedModel: If an output of this shape has none.
    """
    if len(shape) < 2:
        raise UnsupportedModel(
            f"metric 'kl' needs an output (batch, classes, ...); this network gives {tuple(shape)}; choose metric "
            "'squared'"
        )


def metric_for(output: Tensor) -> MetricName:
    """The divergence of classes where there are two or more, else the squared error."""
    return "kl" if output.ndim > 1 and output.shape[1] > 1 else "squared"


def measured_widths(errors: FloatArray, count: int) -> tuple[int, ...]:
    """Where a site is measured, ascending: at half of its units, a quarter, ... while there are any.

    The first is smaller if half of the units do everything.
    """
    half = max(1, (len(errors) - 1) // 2)
    damaging = np.flatnonzero(errors[: half + 1] > NEGLIGIBLE * errors[np.isfinite(errors)].max())
    first = max(1, int(damaging[-1])) if len(damaging) else half
    return tuple(sorted({first // 2**n for n in range(count)} - {0}))


def effect_curve(errors: FloatArray, widths: Sequence[int], effects: Sequence[float]) -> FloatArray:
    """The effect of each width: in proportion to the site's own error, as large as measured at some widths.

    Between these the factor of the error changes evenly, beyond them it stays.

    Args:
        errors: The site's error at each width, falling, shape ``(N + 1,)``.
        widths: Where effects were measured, ascending.
        effects: What was measured there.

    Returns:
        Effect at each width, shape ``(N + 1,)``; 0 at N, infinite where `errors` is.
    """
    excess = errors - errors[-1]
    known = [width for width in widths if 0 < excess[width] < np.inf]
    factors = [max(effect, _LEAST) / excess[w] for w, effect in zip(widths, effects, strict=True) if w in known]
    slope = np.interp(np.arange(len(errors)), known, factors) if known else 1.0
    return np.where(np.isfinite(errors), excess * slope, np.inf)


def _first(outputs: Any) -> Tensor:
    """The network's first output, in at least single precision."""
    found = next(tensors_of(outputs))
    return found if found.dtype == torch.float64 else found.float()
