"""OutputDistance: the distance of a changed network's output from the dense one's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scionet.choices.outputs import MetricName
from scionet.errors import CalibrationError, UnsupportedModel
from scionet.network.calling import Batch, joined, tensors_of
from scionet.network.multiprocess import everywhere, summed
from scionet.network.network import Network
from scionet.network.passes.variants import run_variants
from scionet.progress import Progress, silent
from scionet.typing import FloatArray


@dataclass(frozen=True, eq=False)
class OutputDistance:
    """The distance of a network's output from the dense one's, on some examples.

    Attributes:
        network: The dense network.
        inputs: Batches on its device.
        outputs: Its output for each of them.
        metric: ``"kl"``: mean divergence of the softmax over dimension 1, dense from changed, in nats. ``"squared"``:
            squared error relative to the mean square.
    """

    network: Network
    inputs: Sequence[Batch]
    outputs: Sequence[Tensor]
    metric: MetricName

    @classmethod
    def on(cls, network: Network, inputs: Iterable[Batch], metric: MetricName | None) -> "OutputDistance":
        """Run the dense network once.

        Args:
            network: The dense network.
            inputs: Batches.
            metric: None chooses the divergence if there are two or more classes.

        Raises:
            CalibrationError: If there is no batch.
            UnsupportedModel: If the output has no classes for ``"kl"``.
        """
        placed = [network.placed(batch) for batch in inputs]
        if not everywhere(bool(placed), network.device):
            raise CalibrationError(
                "the calibration data are empty; give an iterable of at least one batch of inputs (to every process, "
                "if there are several)"
            )
        with network.evaluating():
            outputs = [_wide(network.output(batch)) for batch in placed]
        for output in outputs[:1] if metric == "kl" else ():
            refuse_without_classes(output.shape)
        return cls(network, placed, outputs, metric or metric_for(outputs[0]))

    @cached_property
    def n_examples(self) -> float:
        """Examples of all processes."""
        return self._summed(sum(map(len, self.outputs)))

    @cached_property
    def unit(self) -> float:
        """The unit of the distance: a nat, or the mean square of the dense output of an example."""
        if self.metric == "kl":
            return 1.0
        squares = self._summed(sum(float(output.double().square().sum()) for output in self.outputs))
        return max(squares, np.finfo(np.float64).tiny) / max(self.n_examples, 1)

    @property
    def unit_name(self) -> str:
        """The unit as a phrase."""
        return "nats of divergence" if self.metric == "kl" else "relative squared error"

    def of(self, tensors: Mapping[str, Tensor]) -> float:
        """The distance when `tensors` replace the network's own.

        Raises:
            CalibrationError: If the output is NaN or infinite.
        """
        return float(self.of_each([tensors])[0])

    def of_each(self, changes: Sequence[Mapping[str, Tensor]], progress: Progress = silent) -> FloatArray:
        """The distance with each of the `changes`, shape ``(changes,)``; see `of`.

        Raises:
            CalibrationError: If an output is NaN or infinite.
        """
        device, n_examples = self.network.device, sum(map(len, self.outputs))
        total, done = torch.zeros(len(changes), dtype=torch.float64, device=device), 0
        progress("measure", done, n_examples)
        for batch, dense in joined(zip(self.inputs, self.outputs, strict=True)):  # a call of one form is recorded once
            rest = dense
            for outputs in run_variants(self.network.model, changes, batch):
                here, rest = rest[: len(outputs[0])], rest[len(outputs[0]) :]
                total += torch.stack([distances(output, here, self.metric).sum() for output in outputs])
                done += len(here)
                progress("measure", done, n_examples)
        found = summed(total).cpu().numpy()
        if not np.isfinite(found).all():
            raise CalibrationError("the pruned network gives NaN or infinite outputs; check the calibration data")
        return found / self.n_examples / self.unit

    def compared(self, predicted: float, measured: float) -> str:
        """A predicted distance beside the measured one, as a phrase."""
        return f"predicted {predicted:.3g}, measured {measured:.3g} {self.unit_name}"

    def _summed(self, number: float) -> float:
        return float(summed(torch.tensor(number, dtype=torch.float64, device=self.network.device)))


def distances(changed: Any, dense: Tensor, metric: MetricName) -> Tensor:
    """The distance of each example's output from the dense one, float64, shape ``(examples,)``.

    Args:
        changed: What the changed network returns.
        dense: The first output of the dense network.
        metric: See `OutputDistance`.
    """
    if metric == "squared":
        return (_first(changed) - dense).square().reshape(len(dense), -1).sum(1).double()
    before, after = dense.log_softmax(1), _first(changed).log_softmax(1)
    return (before.exp() * (before - after)).sum(1).reshape(len(dense), -1).mean(1).double()


def refuse_without_classes(shape: Sequence[int]) -> None:
    """Refuse a divergence of an output without classes.

    Raises:
        UnsupportedModel: If an output of this shape has none.
    """
    if len(shape) < 2:
        raise UnsupportedModel(
            f"outputs='kl' needs an output (batch, classes, ...); this network returns {tuple(shape)}; choose "
            "outputs='squared'"
        )


def metric_for(output: Tensor) -> MetricName:
    """The divergence where there are two or more classes, else the squared error."""
    return "kl" if output.ndim > 1 and output.shape[1] > 1 else "squared"


def _first(outputs: Any) -> Tensor:
    return _wide(next(tensors_of(outputs)))


def _wide(output: Tensor) -> Tensor:
    """An output in at least single precision."""
    return output if output.dtype == torch.float64 else output.float()
