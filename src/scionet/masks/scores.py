"""Scores of single weights, as short decorated functions. Weights with the highest scores are kept.

A score gets the dense weights θ and the masks m of earlier rounds. Gradients are computed at m∘θ, in eval mode.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.choices.outputs import Outputs
from scionet.errors import CalibrationError
from scionet.masks.gradients import LossFunctional, Weights, gradients
from scionet.masks.inverse_fisher import (
    BLOCK_SIZE,
    DAMPING,
    InverseProducts,
    Layout,
    check_block_settings,
    example_gradient_blocks,
    inverse_blocks,
)
from scionet.masks.schedule import ONE_SHOT, Schedule
from scionet.masks.synaptic_flow import synaptic_flow
from scionet.masks.weights import upcast_state
from scionet.network.calling import Batch
from scionet.network.comparison import DEFAULT


@dataclass(frozen=True, eq=False)
class WeightView:
    """Inputs of a weight score.

    Attributes:
        model: The network.
        weights: Its weights θ by name, in float32 or wider.
        masks: Which weights are still kept, as booleans of their shapes.
        batches: Pairs of inputs and labels on the network's device; empty for scores that need none.
        example_inputs: Inputs of the network, if known.
        temperature: Divisor of the logits.
        rng: Random generator.
        outputs: Which output has the classes.
    """

    model: nn.Module
    weights: Weights
    masks: Mapping[str, Tensor]
    batches: Sequence[Any]
    example_inputs: Batch | None
    temperature: float
    rng: np.random.Generator
    outputs: Outputs = DEFAULT

    @property
    def masked(self) -> dict[str, Tensor]:
        """m∘θ."""
        return {name: weight * self.masks[name] for name, weight in self.weights.items()}

    @property
    def loss(self) -> LossFunctional:
        """The task loss, as a function of the weights."""
        return LossFunctional(
            self.model, upcast_state(self.model), self.batches, self.temperature, outputs=self.outputs
        )

    def times(self, gradients: Weights) -> dict[str, Tensor]:
        """θ∘∂R/∂θ."""
        return {name: weight * gradients[name] for name, weight in self.weights.items()}


Scoring = Callable[[WeightView], Mapping[str, Tensor]]


@dataclass(frozen=True)
class WeightScore:
    """A score of single weights.

    Attributes:
        compute: Function that computes it.
        uses_labels: Whether batches must be pairs of inputs and labels.
        uses_inputs: Whether example inputs are required.
        temperature: Default divisor of the logits.
        schedule: Default rounds.
    """

    compute: Scoring
    uses_labels: bool = False
    uses_inputs: bool = False
    temperature: float = 1.0
    schedule: Schedule = ONE_SHOT

    def __call__(self, view: WeightView) -> Mapping[str, Tensor]:
        """Scores by name, in the weights' shapes."""
        return self.compute(view)


def score(**needs: Any) -> Callable[[Scoring], WeightScore]:
    """Decorator that makes a score from a function; for the arguments, see `WeightScore`."""
    return lambda compute: WeightScore(compute, **needs)


@score()
def random(view: WeightView) -> Mapping[str, Tensor]:
    """Uniformly random."""
    return {name: torch.from_numpy(view.rng.random(tuple(w.shape))).to(w.device) for name, w in view.weights.items()}


@score()
def magnitude(view: WeightView) -> Mapping[str, Tensor]:
    """|θ|. Source: Han et al., *Learning both Weights and Connections*, NeurIPS 2015."""
    return {name: weight.abs() for name, weight in view.weights.items()}


@score()
def lamp(view: WeightView) -> Mapping[str, Tensor]:
    """θ_u² / Σ θ_v² over all weights v of the layer that are not smaller than u; ties count the lower index as larger.

    The largest weight of each layer scores 1. With a global scope, no layer is therefore emptied before all others are
    down to one weight.

    Source: Lee et al., *Layer-adaptive Sparsity for the Magnitude-based Pruning*, ICLR 2021.
    """
    return {name: _lamp_scores(weight) for name, weight in view.masked.items()}


@score(uses_labels=True)
def snip(view: WeightView) -> Mapping[str, Tensor]:
    """|θ g| with the gradient g of the mean loss: connection sensitivity, or loss preservation.

    Source: Lee et al., *SNIP*, ICLR 2019; Lubana and Dick, ICLR 2021. Differs from the former in scoring the current
    weights, in not masking biases, and in using several batches.
    """
    return {name: s.abs() for name, s in view.times(view.loss.gradient(view.masked)).items()}


@score(uses_labels=True)
def biased_loss(view: WeightView) -> Mapping[str, Tensor]:
    """|θ| |θ g|: loss preservation, biased towards removing small weights. Source: Lubana and Dick, ICLR 2021."""
    found = view.times(view.loss.gradient(view.masked))
    return {name: weight.abs() * found[name].abs() for name, weight in view.weights.items()}


@score(uses_labels=True, temperature=200.0)
def grasp(view: WeightView) -> Mapping[str, Tensor]:
    """θ∘Hg: removing a weight changes ‖g‖² by −2 θ (Hg) to first order, so removals raise the gradient norm.

    Source: Wang et al., *Picking Winning Tickets Before Training by Preserving Gradient Flow*, ICLR 2020, who define
    S = −θ∘Hg and keep the smallest. Differs in using eval mode, one gradient over all examples (the authors' code
    splits them in halves), and the last layer's own weights.
    """
    return view.times(view.loss.hessian_gradient(view.masked))


@score(uses_labels=True)
def gradient_preservation(view: WeightView) -> Mapping[str, Tensor]:
    """|θ∘Hg|: removals change the gradient norm least. Source: Lubana and Dick, ICLR 2021."""
    return {name: s.abs() for name, s in view.times(view.loss.hessian_gradient(view.masked)).items()}


@score(uses_labels=True)
def obd(view: WeightView) -> Mapping[str, Tensor]:
    """½ θ² F, where F, the mean of squared per-example gradients, approximates the diagonal of the Hessian.

    Source: LeCun, Denker, Solla, *Optimal Brain Damage*, 1989, with the empirical Fisher matrix for the Hessian.
    """
    found = view.loss.squared_gradients(view.masked)
    return {name: 0.5 * weight.square() * found[name] for name, weight in view.weights.items()}


def woodfisher(block_size: int = BLOCK_SIZE, damping: float = DAMPING) -> WeightScore:
    """θ² / (2 [F⁻¹]_qq): increase of the loss if a weight is removed and the others of its block compensate.

    F is the block-diagonal, damped empirical Fisher matrix with one gradient per example; see `inverse_fisher`.

    Source: Singh, Alistarh, *WoodFisher: Efficient Second-Order Approximation for Neural Network Compression*, NeurIPS
    2020; the saliency is that of Hassibi, Stork, *Optimal Brain Surgeon*, NIPS 1992. Differs in the default of λ.

    Args:
        block_size: Number of consecutive weights of one tensor in a block. Memory holds weights × block_size numbers.
        damping: λ.

    Raises:
        InvalidSetting: If a setting is out of range.
    """
    check_block_settings(block_size, damping)

    def compute(view: WeightView) -> Mapping[str, Tensor]:
        layout = Layout.from_weights(view.weights, block_size)
        count = sum(len(labels) for _, labels in view.batches)
        inverse = inverse_blocks(_masked_gradients(view, layout), count, damping)
        return layout.tensors(layout.rows(view.weights).square() / (2 * inverse.diagonal(dim1=1, dim2=2)))

    return WeightScore(compute, uses_labels=True)


def mfac(damping: float = DAMPING, block_size: int | None = None) -> WeightScore:
    """As `woodfisher` with all weights in one block, matrix-free. Memory holds weights × examples numbers.

    Source: Frantar, Kurtic, Alistarh, *M-FAC: Efficient Matrix-Free Approximations of Second-Order Information*,
    NeurIPS 2021, with its damping.

    Args:
        damping: λ.
        block_size: Number of consecutive weights of one tensor in a block; None puts all weights into one block.

    Raises:
        InvalidSetting: If a setting is out of range.
    """
    check_block_settings(block_size, damping)

    def compute(view: WeightView) -> Mapping[str, Tensor]:
        layout = Layout.from_weights(view.weights, block_size)
        inverse = InverseProducts.from_gradients(torch.cat([*_masked_gradients(view, layout)]), damping)
        return layout.tensors(layout.rows(view.weights).square() / (2 * inverse.diagonal))

    return WeightScore(compute, uses_labels=True)


@score(uses_inputs=True, schedule=Schedule(rounds=100))
def synflow(view: WeightView) -> Mapping[str, Tensor]:
    """|θ| ∂R/∂|θ| of the synaptic flow R, in float64.

    Source: Tanaka et al., *Pruning neural networks without any data by iteratively conserving synaptic flow*, NeurIPS
    2020, algorithm 1. Differs from the authors' code in setting biases and running means to 0, which conserves the flow
    in trained networks too. Counts are exact, and the network's tensors are not modified.

    Raises:
        CalibrationError: If there are no example inputs.
    """
    if view.example_inputs is None:
        raise CalibrationError("score 'synflow' needs the shape of the inputs: pass example_inputs, or a batch")
    flow = synaptic_flow(view.model, view.example_inputs)
    magnitudes = {name: weight.double().abs_() for name, weight in view.masked.items()}
    found = gradients(flow, magnitudes)
    # Reuse the magnitudes' memory, which is that of the network. Gradients of several weights may share one tensor.
    return {name: size.copy_(view.weights[name]).abs_().mul_(found[name]) for name, size in magnitudes.items()}


SCORES: dict[str, WeightScore] = {
    "random": random,
    "magnitude": magnitude,
    "lamp": lamp,
    "snip": snip,
    "biased_loss": biased_loss,
    "grasp": grasp,
    "gradient_preservation": gradient_preservation,
    "obd": obd,
    "woodfisher": woodfisher(),
    "mfac": mfac(),
    "synflow": synflow,
}
"""All scores by name."""


def _masked_gradients(view: WeightView, layout: Layout) -> Iterator[Tensor]:
    """Per-example gradients as blocks, 0 at masked weights."""
    masks = layout.rows(view.masks)
    for chunk in example_gradient_blocks(view.loss, view.masked, layout):
        yield chunk * masks


def _lamp_scores(weight: Tensor) -> Tensor:
    flat = weight.double().flatten().square()
    order = flat.argsort(descending=True, stable=True)
    found = torch.empty_like(flat)
    found[order] = flat[order] / flat[order].cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return found.view(weight.shape)
