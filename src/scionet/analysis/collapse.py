"""Conservation of synaptic flow, and the compression at which a score empties layers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.errors import InvalidSetting
from scionet.masks.gradients import gradients
from scionet.masks.masking import mask_weights
from scionet.masks.rounds import collapsed
from scionet.masks.synaptic_flow import synaptic_flow
from scionet.masks.weight_masks import WeightMasks
from scionet.masks.weights import maskable
from scionet.network.calling import Batch
from scionet.network.guard import guarded
from scionet.network.sites import Site, Sites
from scionet.torch_internals import ConvolutionBase
from scionet.typing import FloatArray


@dataclass(frozen=True, eq=False)
class Conservation:
    """Synaptic flow through a network, dense or masked, or another score of single weights.

    A layer that every path passes through carries the whole flow; a layer inside a branch carries less. The incoming
    and outgoing flow of a unit are equal. This holds for any saliency θ ∂R/∂θ in a network of ReLUs without biases.

    Source: Tanaka et al., NeurIPS 2020, theorems 1 and 2.

    Attributes:
        flow: R, the flow at the output; for another score, the largest absolute sum of a layer.
        layers: Sum of the scores of each parameter.
        incoming: By site, the sum of scores over the weights that produce each unit, ``(width,)``. Depthwise
            convolutions are left out, because they pass units on.
        outgoing: By site, the sum of scores over the weights that consume each unit, ``(width,)``.
    """

    flow: float
    layers: Mapping[str, float]
    incoming: Mapping[str, FloatArray]
    outgoing: Mapping[str, FloatArray]

    @property
    def imbalance(self) -> float:
        """Largest difference between incoming and outgoing flow of a unit, relative to R; 0 without flow."""
        gaps = [np.abs(self.incoming[name] - self.outgoing[name]).max() for name in self.incoming]
        return float(max(gaps, default=0.0)) / self.flow if self.flow else 0.0


@dataclass(frozen=True)
class Point:
    """A network masked to one compression.

    Attributes:
        score: Name of the score.
        compression: Number of all weights divided by that of kept weights.
        kept: Number of kept weights, by parameter.
        collapsed: Parameters without kept weights.
        flow: Synaptic flow of the masked network; 0 if no path leads from input to output.
    """

    score: str
    compression: float
    kept: Mapping[str, int]
    collapsed: tuple[str, ...]
    flow: float

    @property
    def connected(self) -> bool:
        """Whether a path leads from input to output."""
        return self.flow > 0


@guarded
def conservation(
    model: nn.Module,
    example_inputs: Batch,
    sites: Sites,
    masks: WeightMasks | None = None,
    scores: Mapping[str, Tensor] | None = None,
) -> Conservation:
    """Measure the synaptic flow through layers and units, or whether another score is conserved.

    Args:
        model: The network; not modified.
        example_inputs: Inputs of the network.
        sites: Sites whose units are measured.
        masks: Which weights are kept; all by default. Not with `scores`.
        scores: Scores of single weights, signed or not, by name and in the shapes of the parameters; by default those
            of synaptic flow.

    Raises:
        InvalidSetting: If scores fit no parameter, or are given with masks.
    """
    if scores is None:
        flow, scores = _synaptic_flow(model, example_inputs, masks)
    else:
        if masks is not None:
            raise InvalidSetting("masks belong to synaptic flow; give scores that are zero where weights are masked")
        scores = _given_scores(model, scores)
        flow = max(abs(float(score.sum())) for score in scores.values())
    known = {n: s for n, s in sites.items() if {*s.producers, *s.consumers} <= scores.keys() and s.unit == "channel"}
    return Conservation(
        flow=flow,
        layers={name: float(score.sum()) for name, score in scores.items()},
        incoming={name: _unit_flow(site, scores, _proper_producers(model, site), 0) for name, site in known.items()},
        outgoing={name: _unit_flow(site, scores, site.consumers, 1) for name, site in known.items()},
    )


def _synaptic_flow(
    model: nn.Module, example_inputs: Batch, masks: WeightMasks | None
) -> tuple[float, dict[str, Tensor]]:
    """R and the score of every weight."""
    weights = {name: weight.double().abs() for name, weight in maskable(model).items()}
    masked = {n: w * masks[n].to(w.device) if masks is not None and n in masks else w for n, w in weights.items()}
    flow = synaptic_flow(model, example_inputs)
    return float(flow(masked)), {name: masked[name] * slope for name, slope in gradients(flow, masked).items()}


def _given_scores(model: nn.Module, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores in float64.

    Raises:
        InvalidSetting: If there are none, or one fits no parameter.
    """
    shapes = {name: weight.shape for name, weight in maskable(model).items()}
    wrong = [name for name, score in scores.items() if shapes.get(name) != score.shape]
    if wrong or not scores:
        raise InvalidSetting(
            f"scores have names and shapes of weights, such as {dict(list(shapes.items())[:2])}; given "
            f"{ {name: tuple(scores[name].shape) for name in wrong[:2]} }"
        )
    return {name: score.detach().double() for name, score in scores.items()}


@guarded
def collapse_curve(
    model: nn.Module,
    score: str,
    compressions: Sequence[float],
    *,
    example_inputs: Batch,
    batches: Iterable[Any] = (),
    **rule: Any,
) -> tuple[Point, ...]:
    """Mask a network to several compressions, and report the empty layers and the remaining flow.

    Args:
        model: The network; not modified.
        score: Name of a weight score.
        compressions: Number of all weights divided by that of kept weights; each at least 1.
        example_inputs: Inputs of the network.
        batches: Pairs of inputs and labels, for scores that use labels.
        **rule: Settings of `mask_weights`.

    Raises:
        InvalidSetting: If there are no compressions, or one is below 1.
        PruneError: If `mask_weights` raises it.
    """
    if not compressions or min(compressions) < 1:
        raise InvalidSetting(f"give at least one compression, each 1 or more; given {list(compressions)}")
    flow, given = synaptic_flow(model, example_inputs), list(batches)
    magnitudes = {name: weight.abs() for name, weight in maskable(model).items()}
    points = []
    for compression in compressions:
        options: dict[str, Any] = {"example_inputs": example_inputs, "batches": given, "on_collapse": "allow", **rule}
        masks = mask_weights(model, 1 / compression, score=score, **options).masks
        with torch.no_grad():
            remaining = float(flow({name: size * masks[name] for name, size in magnitudes.items()}))
        points.append(Point(score, compression, masks.counts, collapsed(masks), remaining))
    return tuple(points)


def critical_compression(points: Iterable[Point]) -> float | None:
    """The largest compression up to which no layer is emptied; None if layers are emptied at every compression.

    Source: Tanaka et al., NeurIPS 2020, on a grid of powers of 10^0.25.
    """
    critical = None
    for point in sorted(points, key=lambda point: point.compression):
        if point.collapsed:
            break
        critical = point.compression
    return critical


def _proper_producers(model: nn.Module, site: Site) -> list[str]:
    """Producers that compute the units from other units, unlike depthwise convolutions, which pass them on."""
    return [name for name in site.producers if not _depthwise(model.get_submodule(name.rpartition(".")[0]))]


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, ConvolutionBase) and module.groups == module.in_channels > 1


def _unit_flow(site: Site, scores: Mapping[str, Tensor], names: Iterable[str], dim: int) -> FloatArray:
    """Sum of the scores of these weights for each unit; units are in dimension `dim`."""
    total = torch.zeros(site.width, dtype=torch.float64)
    for name in names:
        entries = scores[name].movedim(dim, 0).flatten(1).sum(1).cpu()
        total += entries[torch.from_numpy(site.slot(name, dim).index)].sum(1)
    return total.numpy()
