"""The task loss as an objective: what greedy forward selection was published with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.methods.contract import SiteView
from scionet.network.gates import call_with, column_factors, gated_tensors
from scionet.network.running import Batch, call, place_of, state_of, tensors_of, to_model, undisturbed
from scionet.selection.objective import Objective

STACKED_EXAMPLES = 4096
"""Candidates are evaluated together up to this many examples."""


@dataclass(frozen=True)
class _Picks:
    counts: NDArray[np.float64]
    value: float


class TaskLoss(Objective[_Picks]):
    """Minus the cross-entropy of the whole network with ``a_i = N c_i / n`` after n picks.

    Candidates are stacked by `torch.func.vmap` over the gates: what comes before the site is computed once for all of
    them, what comes after for all at once. The calibration batches are the same for every candidate and step.

    Source: Ye et al., ICML 2020. Differs in that all calibration batches are used in each step, not a fresh one.
    """

    def __init__(self, view: SiteView) -> None:
        """Prepare the evaluation.

        Args:
            view: The site; its batches are pairs of inputs and labels.

        Raises:
            CalibrationError: If they are not, or a label is out of range.
        """
        self.size, self.facts = view.site.width, frozenset()
        self._view = view
        self._pairs = [_pair(batch, view) for batch in view.batches]
        self._device = place_of(view.model)[0]
        with undisturbed(view.model):
            self._base = gated_tensors(view.model, view.sites, view.gates, view.tensors)
            self.dense_loss = self._mean([float(_loss(call(view.model, x), y)) for x, y in self._pairs])
            self._empty = float(self._losses(np.zeros((1, self.size)))[0])

    def start(self) -> _Picks:
        """Nothing is kept."""
        return _Picks(np.zeros(self.size), -self._empty)

    def gains(self, state: _Picks, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        """Decrease of the loss by each candidate."""
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

    def _evaluate(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        with undisturbed(self._view.model):
            return self._losses(self.size * counts / counts.sum(1, keepdims=True))

    def _losses(self, gates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean loss over all examples for each row of gates, shape ``(rows, N)``."""
        stacked = torch.as_tensor(gates, device=self._device)
        try:
            rows = [
                vmap(lambda gate, x=x, y=y: _loss(self._gated(gate, x), y), chunk_size=_chunk(y))(stacked)
                for x, y in self._pairs
            ]
        except RuntimeError as error:
            raise UnsupportedModel(
                f"the network cannot be evaluated for several candidates at once by torch.func.vmap ({error}); choose "
                "a local objective such as 'least_squares'"
            ) from error
        return np.array(self._mean([row.double().cpu().numpy() for row in rows]))

    def _gated(self, gate: Tensor, inputs: Batch) -> Any:
        tensors: dict[str, Tensor] = dict(self._base)
        state = state_of(self._view.model)
        for consumer in self._view.site.consumers:
            weight = self._base.get(consumer, state[consumer])
            factors = column_factors(self._view.site, consumer, gate.to(weight.dtype), weight.shape[1])
            tensors[consumer] = weight * factors.view(1, -1, *[1] * (weight.ndim - 2))
        return call_with(self._view.model, tensors, inputs)

    def _mean(self, losses: list[Any]) -> Any:
        counts = [len(labels) for _, labels in self._pairs]
        return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)


def _loss(outputs: Any, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(next(tensors_of(outputs)).float(), labels)


def _chunk(labels: Tensor) -> int:
    return max(1, STACKED_EXAMPLES // len(labels))


def _pair(batch: Any, view: SiteView) -> tuple[Batch, Tensor]:
    if isinstance(batch, Mapping) or not isinstance(batch, tuple | list) or len(batch) != 2:
        raise CalibrationError(
            "objective 'loss' needs labels: give batches as pairs (inputs, labels), or choose a label-free objective "
            f"such as 'least_squares'; given a {type(batch).__name__}"
        )
    inputs, labels = batch
    labels = torch.as_tensor(labels).to(place_of(view.model)[0])
    if labels.ndim != 1 or labels.is_floating_point():
        raise CalibrationError(f"labels must be class indices of shape (batch,); given {labels.dtype} {labels.shape}")
    return to_model(inputs, view.model), labels
