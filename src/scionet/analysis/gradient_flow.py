"""Gradient-flow identities behind pruning scores, and how well scores predict the effect of removing units.

Under gradient flow dθ/dt = −g, where g and H are the gradient and the Hessian of the loss L:

    d‖θ‖²/dt = −2 θ·g        d²‖θ‖²/dt² = 2 (‖g‖² + θᵀHg)        dL/dt = −‖g‖²        d‖g‖²/dt = −2 gᵀHg

Source: Lubana and Dick, *A Gradient Flow Framework For Analyzing Network Pruning*, ICLR 2021.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from scionet.analysis.curvature import curvature
from scionet.analysis.smooth_piece import SmoothPiece
from scionet.errors import InvalidSetting
from scionet.masks.gradients import LossFunctional, Weights
from scionet.masks.weights import maskable
from scionet.network.guard import guarded
from scionet.network.network import Network
from scionet.network.sites import Sites
from scionet.typing import FloatArray


@dataclass(frozen=True)
class Rate:
    """A rate of change under gradient flow: predicted by its identity, and measured by a difference along the flow."""

    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Difference relative to the prediction."""
        return abs(self.measured - self.predicted) / max(abs(self.predicted), np.finfo(float).tiny)


@dataclass(frozen=True)
class FlowRates:
    """The identities, measured on a network.

    Attributes:
        norm: d‖θ‖²/dt.
        norm_acceleration: d²‖θ‖²/dt², measured as the rate of −2 θ·g.
        loss: dL/dt.
        gradient_norm: d‖g‖²/dt.
    """

    norm: Rate
    norm_acceleration: Rate
    loss: Rate
    gradient_norm: Rate


@dataclass(frozen=True, eq=False)
class FilterSums:
    """Signed scores of the filters of one layer, ``(outputs,)`` each.

    The loss does not depend on the scale of a filter in front of a BatchNorm that uses batch statistics. Then θ·g = 0
    and θ·Hg = −‖g‖², up to the BatchNorm's ε, and signed scores are meaningless. Scores are therefore computed in eval
    mode.

    Attributes:
        first: θ·g.
        second: θ·Hg.
        gradient_norm: ‖g‖².
    """

    first: FloatArray
    second: FloatArray
    gradient_norm: FloatArray


@guarded
def flow_rates(model: nn.Module, batches: Iterable[Any], *, batch_norms: bool = False, step: float = 1e-5) -> FlowRates:
    """Compare the identities with central differences along the flow, in float64, on the smooth piece of the network.

    Activations stay on the side of their kink where they are at θ: see `SmoothPiece`.

    Args:
        model: The network; not modified. θ are all its parameters.
        batches: Pairs of inputs and labels.
        batch_norms: Whether BatchNorms use the statistics of each batch, as in training.
        step: Time step of the central differences, to either side.

    Raises:
        CalibrationError: If there are no batches, or labels are missing or do not match.
        InvalidSetting: If the step is not above 0.
    """
    if step <= 0:
        raise InvalidSetting(f"step must be above 0; given {step}")
    loss, theta = _problem(model, batches, batch_norms)
    piece = SmoothPiece()
    with piece:
        loss.value(theta)
    piece.hold()
    with piece:
        return _flow_rates(loss, theta, step)


def _flow_rates(loss: LossFunctional, theta: dict[str, Tensor], step: float) -> FlowRates:
    g, hg = loss.gradient(theta), loss.hessian_gradient(theta)

    def at(time: float) -> Weights:
        """θ at `time`, by a midpoint step, which uses no Hessian."""
        return _moved(theta, loss.gradient(_moved(theta, g, time / 2)), time)

    norm, inner, value, gradient_norm = (_state(loss, at(step)) - _state(loss, at(-step))) / (2 * step)
    return FlowRates(
        norm=Rate(-2 * _dot(theta, g), norm),
        norm_acceleration=Rate(2 * (_dot(g, g) + _dot(theta, hg)), -2 * inner),
        loss=Rate(-_dot(g, g), value),
        gradient_norm=Rate(-2 * _dot(g, hg), gradient_norm),
    )


@guarded
def filter_sums(model: nn.Module, batches: Iterable[Any], *, batch_norms: bool = False) -> dict[str, FilterSums]:
    """Signed scores of the filters of every linear map and convolution, in float64; see `FilterSums`.

    Args:
        model: The network; not modified. g and H are with respect to all its parameters.
        batches: Pairs of inputs and labels.
        batch_norms: Whether BatchNorms use the statistics of each batch, as in training.

    Raises:
        CalibrationError: If there are no batches, or labels are missing or do not match.
    """
    loss, theta = _problem(model, batches, batch_norms)
    g, hg = loss.gradient(theta), loss.hessian_gradient(theta)
    return {
        name: FilterSums(*(_by_filter(a[name], b[name]) for a, b in ((theta, g), (theta, hg), (g, g))))
        for name in maskable(model)
    }


@guarded
def removal_effects(model: nn.Module, batches: Iterable[Any], sites: Sites) -> dict[str, FloatArray]:
    """Change of the loss when a single unit is removed, ``(width,)`` by site; takes one pass over the data per unit.

    Raises:
        CalibrationError: If there are no batches, or labels are missing or do not match.
    """
    loss, _ = _problem(model, batches, False)
    network, dense, effects = Network(model, sites), loss.value({}), {}
    for name, site in sites.items():
        gates = 1 - torch.eye(site.width, dtype=torch.float64)
        changes = [loss.value(_double(network.masked({name: gate}))) - dense for gate in gates]
        effects[name] = np.array(changes)
    return effects


def rank_correlation(scores: Mapping[str, FloatArray], effects: Mapping[str, FloatArray]) -> dict[str, float]:
    """Spearman's correlation within each site between scores and absolute changes of the loss.

    Raises:
        InvalidSetting: If scores and effects have different sites or widths.
    """
    widths, others = ({name: len(part) for name, part in parts.items()} for parts in (scores, effects))
    if widths != others:
        raise InvalidSetting(f"scores and effects must have the same sites and widths; given {widths} and {others}")
    found: dict[str, Any] = {name: spearmanr(scores[name], np.abs(effects[name])) for name in scores}
    return {name: float(result.statistic) for name, result in found.items()}


def _problem(model: nn.Module, batches: Iterable[Any], batch_norms: bool) -> tuple[LossFunctional, dict[str, Tensor]]:
    """The loss in float64, and all parameters; see `curvature`."""
    found = curvature(model, batches, ("*",), batch_norms=batch_norms)
    return found.loss, found.weights


def _moved(weights: Weights, gradient: Weights, time: float) -> dict[str, Tensor]:
    return {name: weight - time * gradient[name] for name, weight in weights.items()}


def _state(loss: LossFunctional, weights: Weights) -> FloatArray:
    """‖θ‖², θ·g, L and ‖g‖²."""
    g = loss.gradient(weights)
    return np.array([_dot(weights, weights), _dot(weights, g), loss.value(weights), _dot(g, g)])


def _dot(first: Weights, second: Weights) -> float:
    return float(torch.stack([(first[name] * second[name]).sum() for name in first]).sum())


def _by_filter(first: Tensor, second: Tensor) -> FloatArray:
    return (first * second).flatten(1).sum(1).cpu().numpy()


def _double(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().double() for name, tensor in tensors.items()}
