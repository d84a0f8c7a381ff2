"""Batches with labels, the task loss of the dense network on them, and errors where there is no finite loss."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scionet.choices.outputs import Outputs
from scionet.errors import CalibrationError
from scionet.network.calling import Batch, call, place_of, plain, tensors_of, to_model
from scionet.network.comparison import DEFAULT, class_scores


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each example: logits ``(batch, classes)`` and labels ``(batch,)`` to float64 ``(batch,)``."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(wide, labels, reduction="none").double()


def labelled(batch: Any, model: nn.Module, outputs: Outputs = DEFAULT) -> tuple[Batch, Tensor]:
    """Inputs and labels of a batch on the model's device, checked to have a finite loss.

    Args:
        batch: A pair of inputs and labels.
        model: The network.
        outputs: Which output has the classes; see `class_scores`.

    Raises:
        CalibrationError: If the batch is not a pair of inputs and labels, or its loss is not finite.
        UnsupportedModel: If it is not clear which output has the classes.
    """
    inputs, labels = pair_of(batch, model)
    dense_loss(model, inputs, labels, outputs)
    return inputs, labels


def dense_loss(model: nn.Module, inputs: Batch, labels: Tensor, outputs: Outputs = DEFAULT) -> float:
    """The mean cross-entropy of the dense network on one batch.

    Raises:
        CalibrationError: If the labels do not fit the output, or the loss is NaN or infinite.
        UnsupportedModel: If it is not clear which output has the classes.
    """
    logits = class_scores(call(model, inputs), outputs)
    if logits.ndim != 2 or len(logits) != len(labels) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise CalibrationError(
            f"the task loss needs outputs of shape (batch, classes) and a label in 0..classes-1 per example; given "
            f"outputs of shape {tuple(logits.shape)} and {len(labels)} labels of "
            f"{int(labels.min())}..{int(labels.max())}"
        )
    loss = cross_entropies(logits, labels).mean().item()
    if not math.isfinite(loss):
        raise CalibrationError(
            f"the network's loss on the calibration data is {loss}: {_first_not_finite(model, inputs)} gives NaN or "
            "infinite values; check the data and the layers before it"
        )
    return loss


def _first_not_finite(model: nn.Module, inputs: Batch) -> str:
    """The first layer whose output contains NaN or infinite values."""
    found: list[str] = []

    def check(name: str, outputs: Any) -> None:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors_of(outputs)):
            found.append(repr(name) if name else "the network")

    hooks = [
        m.register_forward_hook(lambda _m, _i, out, name=name: check(name, out)) for name, m in model.named_modules()
    ]
    try:
        call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "the loss itself"


def pair_of(batch: Any, model: nn.Module) -> tuple[Batch, Tensor]:
    """Inputs and labels on the model's device.

    Raises:
        CalibrationError: If the batch is not a pair of inputs and class indices.
    """
    if isinstance(batch, Mapping) or not isinstance(batch, tuple | list) or len(batch) != 2 or batch[1] is None:
        raise CalibrationError(
            "the task loss needs labels: give batches as pairs (inputs, labels), or choose a method or an objective "
            f"without labels, such as 'energy' or 'least_squares'; given a {type(batch).__name__} without labels"
        )
    inputs, labels = batch[0], plain(torch.as_tensor(batch[1])).to(place_of(model)[0])
    if labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        raise CalibrationError(
            f"labels must be class indices of shape (batch,); given {labels.dtype} of shape {tuple(labels.shape)}"
        )
    return to_model(inputs, model), labels
