"""Scores of single weights: short decorated functions. The highest stay.

A score sees the dense weights θ, and the masks m of the rounds before; gradients are taken at m∘θ, in eval mode.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError
from scionet.masks.gradients import LossFunctional, Weights, slopes
from scionet.masks.inverse_fisher import (
    BLOCK_SIZE,
    DAMPING,
    InverseProducts,
    Layout,
    examples_of_one_process,
    inverse_blocks,
    refuse_blocks,
)
from scionet.masks.schedule import ONE_SHOT, Schedule
from scionet.masks.synaptic_flow import synaptic_flow
from scionet.masks.weights import wide_state
from scionet.network.calling import Batch


@dataclass(frozen=True, eq=False)
class WeightView:
    """A network and what is known when its weights are scored.

    Attributes:
        model: The network.
        weights: Its weights θ by name, in float32 or wider.
        masks: Booleans in their shapes: what is left of them.
        batches: Pairs of inputs and labels on the network's device; empty for scores that need none.
        example_inputs: What the network is called on, if that is known.
        temperature: Logits are divided by it.
        rng: Random numbers.
    """

    model: nn.Module
    weights: Weights
    masks: Mapping[str, Tensor]
    batches: Sequence[Any]
    example_inputs: Batch | None
    temperature: float
    rng: np.random.Generator

    @property
    def masked(self) -> dict[str, Tensor]:
        """m∘θ."""
        return {name: weight * self.masks[name] for name, weight in self.weights.items()}

    @property
    def loss(self) -> LossFunctional:
        """The loss of the labels, as a function of the weights."""
        return LossFunctional(self.model, wide_state(self.model), self.batches, self.temperature)

    def times(self, slopes: Weights) -> dict[str, Tensor]:
        """θ∘∂R/∂θ."""
        return {name: weight * slopes[name] for name, weight in self.weights.items()}


Scoring = Callable[[WeightView], Mapping[str, Tensor]]


@dataclass(frozen=True)
class WeightScore:
    """How much each weight is worth.

    Attributes:
        compute: The function.
        uses_labels: Whether batches must be pairs of inputs and labels.
        uses_inputs: Whether the form of the inputs must be known.
        temperature: What logits are divided by unless that is said.
        schedule: The rounds unless they are said.
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
    """Make a score of a function; for the arguments see `WeightScore`."""
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
    """θ_u² / Σ θ_v² over all v of the layer from u upwards in magnitude; of equal ones the lower index is the larger.

    The largest of each layer scores 1, so with a global scope no layer is emptied before all others have one weight.

    Source: Lee et al., *Layer-adaptive Sparsity for the Magnitude-based Pruning*, ICLR 2021.
    """
    return {name: _share_of_larger(weight) for name, weight in view.masked.items()}


@score(uses_labels=True)
def snip(view: WeightView) -> Mapping[str, Tensor]:
    """|θ g| with the gradient g of the mean loss: connection sensitivity, or loss preservation.

    Source: Lee et al., *SNIP*, ICLR 2019; Lubana and Dick, ICLR 2021. Differs from the former in
    that the weights that are scored are those that stay, that biases are not masked, and in several batches.
    """
    return {name: s.abs() for name, s in view.times(view.loss.slopes(view.masked)).items()}


@score(uses_labels=True)
def biased_loss(view: WeightView) -> Mapping[str, Tensor]:
    """|θ| |θ g|: loss preservation with a bias to small magnitude. Source: Lubana and Dick, ICLR 2021."""
    found = view.times(view.loss.slopes(view.masked))
    return {name: weight.abs() * found[name].abs() for name, weight in view.weights.items()}


@score(uses_labels=True, temperature=200.0)
def grasp(view: WeightView) -> Mapping[str, Tensor]:
    """θ∘Hg: taking a weight away changes ‖g‖² by −2 θ (Hg) to first order, so what goes raises the gradient norm.

    Source: Wang et al., *Picking Winning Tickets Before Training by Preserving Gradient Flow*, ICLR 2020,
    whose S = −θ∘Hg keeps the smallest. Differs in one gradient over all examples, where the authors' code halves them,
    in eval mode, and in that the last layer keeps its weights.
    """
    return view.times(view.loss.curvature(view.masked))


@score(uses_labels=True)
def gradient_preservation(view: WeightView) -> Mapping[str, Tensor]:
    """|θ∘Hg|: what goes changes the gradient norm least. Source: Lubana and Dick, ICLR 2021."""
    return {name: s.abs() for name, s in view.times(view.loss.curvature(view.masked)).items()}


@score(uses_labels=True)
def obd(view: WeightView) -> Mapping[str, Tensor]:
    """½ θ² F, where F, the mean of the squared gradients of single examples, stands for the diagonal of the Hessian.

    Source: LeCun, Denker, Solla, *Optimal Brain Damage*, 1989, with the empirical Fisher matrix for the Hessian.
    """
    found = view.loss.squares(view.masked)
    return {name: 0.5 * weight.square() * found[name] for name, weight in view.weights.items()}


def woodfisher(block_size: int = BLOCK_SIZE, damping: float = DAMPING) -> WeightScore:
    """θ² / (2 [F⁻¹]_qq), what the loss rises by when a weight goes and the others of its block make up for it.

    F is the damped empirical Fisher matrix in blocks, every example one gradient; see `inverse_fisher`.

    Source: Singh, Alistarh, *WoodFisher: Efficient Second-Order Approximation for Neural Network Compression*, NeurIPS
    2020; the saliency is that of Hassibi, Stork, *Optimal Brain Surgeon*, NIPS 1992. Differs in the default of λ.

    Args:
        block_size: Consecutive weights of one tensor in a block; numbers in memory are weights × block_size.
        damping: λ.

    Raises:
        InvalidSetting: If a setting is out of range.
    """
    refuse_blocks(block_size, damping)

    def compute(view: WeightView) -> Mapping[str, Tensor]:
        layout = Layout.of(view.weights, block_size)
        count = sum(len(labels) for _, labels in view.batches)
        inverse = inverse_blocks(_masked_gradients(view, layout), count, damping)
        return layout.tensors(layout.rows(view.weights).square() / (2 * inverse.diagonal(dim1=1, dim2=2)))

    return WeightScore(compute, uses_labels=True)


def mfac(damping: float = DAMPING, block_size: int | None = None) -> WeightScore:
    """The same with all weights in one block, without the matrix: numbers in memory are weights × examples.

    Source: Frantar, Kurtic, Alistarh, *M-FAC: Efficient Matrix-Free Approximations of Second-Order Information*,
    NeurIPS 2021, with its damping.

    Args:
        damping: λ.
        block_size: Consecutive weights of one tensor in a block; None puts all weights of all tensors into one.

    Raises:
        InvalidSetting: If a setting is out of range.
    """
    refuse_blocks(block_size, damping)

    def compute(view: WeightView) -> Mapping[str, Tensor]:
        layout = Layout.of(view.weights, block_size)
        inverse = InverseProducts.of(torch.cat([*_masked_gradients(view, layout)]), damping)
        return layout.tensors(layout.rows(view.weights).square() / (2 * inverse.diagonal))

    return WeightScore(compute, uses_labels=True)


@score(uses_inputs=True, schedule=Schedule(rounds=100))
def synflow(view: WeightView) -> Mapping[str, Tensor]:
    """|θ| ∂R/∂|θ| of the synaptic flow R, in float64.

    Source: Tanaka et al., *Pruning neural networks without any data by iteratively conserving synaptic flow*, NeurIPS
    2020, algorithm 1. Differs from the authors' code in that biases and running means are 0, so that flow is conserved
    in trained networks too, that counts are exact, and that the network's own tensors are not touched.

    Raises:
        CalibrationError: If the form of the inputs is not known.
    """
    if view.example_inputs is None:
        raise CalibrationError("score 'synflow' needs the form of the inputs: give example_inputs, or a batch")
    flow = synaptic_flow(view.model, view.example_inputs)
    magnitudes = {name: weight.double().abs_() for name, weight in view.masked.items()}
    found = slopes(flow, magnitudes)
    # In place of the magnitudes, since all are as large as the network; slopes may be one tensor for several weights.
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
    """Gradients of single examples as blocks, 0 where weights are masked."""
    masks = layout.rows(view.masks)
    for some in examples_of_one_process(view.loss, view.masked, layout):
        yield some * masks


def _share_of_larger(weight: Tensor) -> Tensor:
    flat = weight.double().flatten().square()
    order = flat.argsort(descending=True, stable=True)
    found = torch.empty_like(flat)
    found[order] = flat[order] / flat[order].cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return found.view(weight.shape)
