"""The task loss as an objective: what greedy forward selection was published with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import grad

from scionet.errors import CalibrationError
from scionet.methods.contract import SiteView
from scionet.methods.gated import GatedSite, stacked
from scionet.network.processes import everywhere, summed
from scionet.network.running import Batch, attention_unfused, call, place_of, tensors_of, to_model, undisturbed
from scionet.selection.objective import Objective
from scionet.settings import ScoringName


@dataclass(frozen=True)
class _Picks:
    counts: NDArray[np.float64]
    value: float


class TaskLoss(Objective[_Picks]):
    """Minus the cross-entropy of the whole network with ``a_i = N c_i / n`` after n picks.

    Candidates are stacked by `torch.func.vmap` over the gates: what comes before the site is computed once for all of
    them, what comes after for all at once. The calibration batches are the same for every candidate and step.

    With scoring ``"taylor"`` the gains are those of the loss linearised in the gates: one forward and one backward pass
    score all candidates. It ranks them differently, since a pick's step is not small; it is another algorithm. For the
    first pick there is no useful gradient, so candidates are evaluated.

    Source: Ye et al., ICML 2020. Differs in that all calibration batches are used in each step, not a fresh one.
    """

    def __init__(self, view: SiteView, scoring: ScoringName = "exact") -> None:
        """Prepare the evaluation.

        Args:
            view: The site; its batches are pairs of inputs and labels.
            scoring: How candidates are scored.

        Raises:
            CalibrationError: If they are not, if there are none, if labels do not fit what the network gives, or if
                its loss is NaN or infinite.
        """
        self.size, self.facts = view.site.width, frozenset()
        self._view, self._device = view, place_of(view.model)[0]
        self._network, self._scoring = GatedSite(view), scoring
        with undisturbed(view.model), attention_unfused():
            self._pairs = [_pair(batch, view.model) for batch in view.batches]
            if not everywhere(bool(self._pairs), self._device):
                raise CalibrationError(
                    "the calibration data are empty; give at least one batch of inputs and labels (to every process, "
                    "if there are several)"
                )
            losses = [_dense_loss(view.model, x, y) for x, y in self._pairs]
            self.dense_loss = float(self._mean([*torch.tensor(losses, dtype=torch.float64, device=self._device)]))
            self._empty = float(self._losses(np.zeros((1, self.size)))[0])

    def start(self) -> _Picks:
        """Nothing is kept."""
        return _Picks(np.zeros(self.size), -self._empty)

    def gains(self, state: _Picks, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """Decrease of the loss by each candidate; to first order with scoring ``"taylor"``."""
        if self._scoring == "taylor" and state.counts.any():
            return self._to_first_order(state.counts)[candidates]
        counts = state.counts + np.eye(self.size)[candidates]
        return -self._evaluate(counts) - state.value

    def commit(self, state: _Picks, unit: int) -> _Picks:
        """One more pick."""
        counts = state.counts.copy()
        counts[unit] += 1
        return _Picks(counts, -float(self._evaluate(counts[None])[0]))

    def value(self, state: _Picks) -> float:
        """Minus the loss."""
        return state.value

    def weights(self, state: _Picks) -> NDArray[np.float64]:
        """N c_i / n."""
        return self.size * state.counts / max(state.counts.sum(), 1)

    def _to_first_order(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Decrease of the loss by each unit: a pick moves the gates a to ``a + (N e_i - a) / (n + 1)``."""
        n_picks, gates = counts.sum(), self.size * counts / counts.sum()
        at = torch.as_tensor(gates, device=self._device)
        with undisturbed(self._view.model), attention_unfused():
            slopes = [grad(lambda gate, x=x, y=y: _loss(self._network(gate, x), y))(at) for x, y in self._pairs]
        slope = self._mean([*slopes]).cpu().numpy()
        return (gates @ slope - self.size * slope) / (n_picks + 1)

    def _evaluate(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        with undisturbed(self._view.model), attention_unfused():
            return self._losses(self.size * counts / counts.sum(1, keepdims=True))

    def _losses(self, gates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean loss over all examples for each row of gates, shape ``(rows, N)``."""
        rows = torch.as_tensor(gates, device=self._device)
        found = [stacked(lambda gate, x=x, y=y: _loss(self._network(gate, x), y), rows, len(y)) for x, y in self._pairs]
        return self._mean([row.double() for row in found]).cpu().numpy()

    def _mean(self, losses: list[Tensor]) -> Tensor:
        """The mean over the examples of all processes, of means over batches of one shape."""
        counts = [len(labels) for _, labels in self._pairs]
        weighted = [loss.double() * count for loss, count in zip(losses, counts, strict=True)]
        total = torch.stack([torch.ones_like(weighted[0]) * sum(counts), torch.stack(weighted).sum(0)])
        examples, loss = summed(total)
        return loss / examples


def _loss(outputs: Any, labels: Tensor) -> Tensor:
    logits = next(tensors_of(outputs))
    return torch.nn.functional.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels)


def _dense_loss(model: nn.Module, inputs: Batch, labels: Tensor) -> float:
    """The loss of the network as it is on one batch.

    Raises:
        CalibrationError: If the labels do not fit its output, or the loss is NaN or infinite.
    """
    outputs = call(model, inputs)
    logits = next(tensors_of(outputs))
    if logits.ndim != 2 or len(logits) != len(labels) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise CalibrationError(
            f"objective 'loss' needs outputs (batch, classes) and as many labels of 0..classes-1; given outputs "
            f"{tuple(logits.shape)} and {len(labels)} labels of {int(labels.min())}..{int(labels.max())}"
        )
    loss = float(_loss(outputs, labels))
    if not math.isfinite(loss):
        raise CalibrationError(
            f"the network's loss on the calibration data is {loss}: {_first_not_finite(model, inputs)} gives NaN or "
            "infinite values; look for them in the data and in the layers before it"
        )
    return loss


def _first_not_finite(model: nn.Module, inputs: Batch) -> str:
    """The first layer whose output has NaN or infinite values."""
    found: list[str] = []

    def look(name: str, outputs: Any) -> None:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors_of(outputs)):
            found.append(repr(name) if name else "the network")

    hooks = [
        m.register_forward_hook(lambda _m, _i, out, name=name: look(name, out)) for name, m in model.named_modules()
    ]
    try:
        call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "the loss itself"


def _pair(batch: Any, model: nn.Module) -> tuple[Batch, Tensor]:
    """Inputs and labels on the model's device.

    Raises:
        CalibrationError: If the batch is no pair of inputs and class indices.
    """
    if isinstance(batch, Mapping) or not isinstance(batch, tuple | list) or len(batch) != 2 or batch[1] is None:
        raise CalibrationError(
            "objective 'loss' needs labels: give batches as pairs (inputs, labels), or choose a label-free objective "
            f"such as 'least_squares'; given a {type(batch).__name__} without labels"
        )
    inputs, labels = batch[0], torch.as_tensor(batch[1]).to(place_of(model)[0])
    if labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        raise CalibrationError(
            f"labels must be class indices of shape (batch,); given {labels.dtype} of shape {tuple(labels.shape)}"
        )
    return to_model(inputs, model), labels
