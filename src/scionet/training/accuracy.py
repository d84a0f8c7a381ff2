"""Accuracy of a classifier."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError
from scionet.network.calling import Batch, call, place_of, to_model, undisturbed
from scionet.network.guard import guarded
from scionet.network.multiprocess import summed


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a classifier on some examples.

    Attributes:
        correct: Number of examples whose largest logit is that of their label.
        seen: Number of examples.
    """

    quantity: ClassVar[str] = "accuracy"

    correct: int
    seen: int

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            CalibrationError: If there is no example, or more are correct than there are.
        """
        if not 0 <= self.correct <= self.seen or not self.seen:
            raise CalibrationError(f"{self.correct} of {self.seen} examples cannot be correct; give 0 to all of some")

    @property
    def rate(self) -> float:
        """Fraction of all examples that are correct."""
        return self.correct / self.seen

    value = score = rate
    """The same; larger for better weights."""

    def __str__(self) -> str:
        """The quantity and its value."""
        return f"accuracy {self.rate:.2%}"


@guarded
def accuracy(model: nn.Module, batches: Iterable[tuple[Batch, Tensor]], bf16: bool = False) -> Accuracy:
    """Top-1 accuracy. The model is left as it was.

    Where several processes evaluate together, each gives its share of the batches and gets the accuracy on all of them.

    Args:
        model: A classifier with logits shaped ``(batch, classes)``.
        batches: Pairs of inputs and integer labels, shape ``(batch,)``.
        bf16: Compute in bfloat16 where torch's autocast does: faster, with other rounding.

    Raises:
        CalibrationError: If there is no example, logits and labels do not fit, or logits are not finite.
    """
    hits = correct_predictions(model, batches, bf16)
    correct, seen = summed(torch.stack([hits.sum(), hits.new_tensor(len(hits), dtype=torch.int64)])).tolist()
    if not seen:
        raise CalibrationError("there are no examples to evaluate; give at least one batch of inputs and labels")
    return Accuracy(correct, seen)


@guarded
def correct_predictions(model: nn.Module, batches: Iterable[tuple[Batch, Tensor]], bf16: bool = False) -> Tensor:
    """Whether each example is classified correctly, as booleans ``(examples,)`` on the model's device.

    The model is left as it was.

    Args:
        model: A classifier with logits shaped ``(batch, classes)``.
        batches: Pairs of inputs and integer labels, shape ``(batch,)``; those of this process.
        bf16: Compute in bfloat16 where torch's autocast does.

    Raises:
        CalibrationError: If logits and labels do not fit, or logits are not finite.
    """
    device = place_of(model)[0]
    correct = [torch.zeros(0, dtype=torch.bool, device=device)]
    with undisturbed(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for inputs, labels in batches:
            logits = call(model, to_model(inputs, model))
            _check(logits, labels)
            correct.append(logits.argmax(1) == labels.to(device))
    return torch.cat(correct)


def _check(logits: Tensor, labels: Tensor) -> None:
    """Refuse logits that have no accuracy.

    Raises:
        CalibrationError: If logits are not ``(batch, classes)`` for labels ``(batch,)``, or not finite.
    """
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels):
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise CalibrationError(f"logits must be (batch, classes) and labels (batch,); given {shapes}")
    if not logits.isfinite().all():
        raise CalibrationError("the network's logits are NaN or infinite; check its weights and the preprocessing")
