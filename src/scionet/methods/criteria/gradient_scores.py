"""Scores from the gradient of the task loss with respect to a gate on each unit.

A gate z = 1 multiplies the contribution of a unit to every consumer. The derivative of the loss with respect to it is
the sum of theta * dL/dtheta over the weights that it multiplies. One backward pass per batch therefore scores all units
of all sites.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.methods.calibration.calibration import Calibration
from scionet.methods.criteria.unit_scores import MeasuredRanker
from scionet.network.example_loss import cross_entropies, labelled
from scionet.network.multiprocess import summed
from scionet.network.network import Network
from scionet.network.sites import Sites
from scionet.typing import FloatArray


@dataclass(frozen=True)
class Slopes:
    """Derivatives of one batch's mean cross-entropy with respect to the gates of all units, site after site.

    Attributes:
        gates: Shape ``(units,)``, float64.
        examples: Number of examples in the batch.
    """

    gates: Tensor
    examples: int


Saliency = Callable[[Slopes], tuple[Tensor, float]]
"""Maps the slopes of one batch to its term in the mean over batches, and the weight of that term."""


@dataclass(frozen=True)
class SaliencyRanker(MeasuredRanker):
    """Ranks units by their saliency in the dense network, measured once for all sites.

    Attributes:
        label: Name of the method.
        saliency: Maps the slopes of a batch to its term in the mean.
    """

    label: str
    saliency: Saliency

    @property
    def name(self) -> str:
        """Name in plans and records."""
        return self.label

    @property
    def uses_labels(self) -> bool:
        """Always: the loss is that of the labels."""
        return True

    def measured(self, network: Network, calibration: Calibration) -> dict[str, FloatArray]:
        """The saliencies of all units.

        Raises:
            CalibrationError: See `saliencies`.
            UnsupportedModel: If the network runs without gradients.
        """
        return saliencies(self.saliency, network, calibration.pairs)


def taylor(slopes: Slopes) -> tuple[Tensor, float]:
    """Squared derivative for each unit's gate, averaged over batches.

    Source: Molchanov et al., *Importance Estimation for Neural Network Pruning*, CVPR 2019, equation 8 with gates.
    Differs in that units are scored once, in the dense network, and that gates are in front of the consumers. The
    layers of a residual stream thus share one gate per unit.
    """
    return slopes.gates.square(), 1.0


def snip(slopes: Slopes) -> tuple[Tensor, float]:
    """Derivative of the loss of all examples for each unit's gate; its absolute value is the score.

    Source: Lee et al., *SNIP: Single-shot Network Pruning based on Connection Sensitivity*, ICLR 2019. Differs in that
    gates are on units instead of single weights.
    """
    return slopes.examples * slopes.gates, float(slopes.examples)


def saliencies(saliency: Saliency, network: Network, pairs: Iterable[Any]) -> dict[str, FloatArray]:
    """The absolute mean over batches of all processes, in eval mode; per site of shape ``(width,)``.

    Raises:
        CalibrationError: If batches are not pairs of inputs and matching class indices, if there are none, or if the
            gradient is zero throughout, NaN or infinite.
        UnsupportedModel: If the network runs without gradients.
    """
    n_units = sum(site.width for site in network.sites.values())
    total = torch.zeros(n_units + 1, dtype=torch.float64, device=network.device)
    with network.evaluating():
        for pair in pairs:
            value, weight = saliency(slopes_of(network, pair))
            total[:-1] += value
            total[-1] += weight
    total = summed(total)
    if not total[-1]:
        raise CalibrationError("there are no calibration batches; give at least one pair (inputs, labels)")
    score = (total[:-1] / total[-1]).abs()
    _refuse_useless(score)
    return {name: part.cpu().numpy() for name, part in _by_site(score, network.sites).items()}


def slopes_of(network: Network, pair: Any) -> Slopes:
    """Slopes of one batch in the network as it is set; frozen parameters do not matter.

    Raises:
        CalibrationError: If the batch is not a pair of inputs and matching class indices, or its loss is not finite.
        UnsupportedModel: If the network runs without gradients.
    """
    inputs, labels = labelled(pair, network.model, network.outputs)
    units = sum(site.width for site in network.sites.values())
    with torch.enable_grad():
        gates = torch.ones(units, dtype=torch.float64, device=labels.device, requires_grad=True)
        logits = network.class_scores(inputs, network.masked(_by_site(gates, network.sites)))
        return Slopes(_derivative(cross_entropies(logits, labels).mean(), gates), len(labels))


def _derivative(loss: Tensor, gates: Tensor) -> Tensor:
    """The gradient.

    Raises:
        UnsupportedModel: If the network runs without gradients.
    """
    if not loss.requires_grad:
        raise UnsupportedModel(
            "the network's output does not depend on its weights as far as torch.autograd sees: its forward runs under "
            "no_grad, or detaches; take that away, or choose a method without gradients, such as 'energy'"
        )
    return torch.autograd.grad(loss, gates)[0]


def _by_site(units: Tensor, sites: Sites) -> Mapping[str, Tensor]:
    """Split the values of all units by site."""
    return dict(zip(sites, units.split([site.width for site in sites.values()]), strict=True))


def _refuse_useless(score: Tensor) -> None:
    """Refuse scores without information.

    Raises:
        CalibrationError: If they are all 0, or some are NaN or infinite.
    """
    if not bool(torch.isfinite(score).all()):
        raise CalibrationError("the gradient of the loss has NaN or infinite values; look for them in data and weights")
    if not bool(score.any()):
        raise CalibrationError(
            "the loss does not change with any unit: its gradient is 0 throughout, so units cannot be told apart; "
            "give more or other examples, or choose a method without gradients, such as 'energy'"
        )
