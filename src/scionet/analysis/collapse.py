"""Is synaptic flow conserved in a network, and at which compression does a score cut it apart?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scionet.errors import InvalidSetting
from scionet.masks.gradients import slopes
from scionet.masks.masking import mask_weights
from scionet.masks.rounds import collapsed
from scionet.masks.synaptic_flow import synaptic_flow
from scionet.masks.weight_masks import WeightMasks
from scionet.masks.weights import maskable
from scionet.network.calling import Batch
from scionet.network.sites import Site, Sites
from scionet.torch_internals import ConvolutionBase

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Conservation:
    """Synaptic flow through a network, whole or masked.

    Where every path goes through a layer, its sum is the flow; layers inside a branch carry less. A unit's sums are
    equal: what comes in through the weights that produce it goes out through those that consume it.

    Source: Tanaka et al., NeurIPS 2020, theorems 1 and 2.

    Attributes:
        flow: R, what reaches the output.
        layers: Sum of the scores of each parameter.
        incoming: By site, the sum over the weights that produce each unit, ``(width,)``; depthwise convolutions, which
            pass units on, left out.
        outgoing: By site, the sum over the weights that consume each unit, ``(width,)``.
    """

    flow: float
    layers: Mapping[str, float]
    incoming: Mapping[str, FloatArray]
    outgoing: Mapping[str, FloatArray]

    @property
    def imbalance(self) -> float:
        """Largest difference between what comes into a unit and what goes out, relative to R; 0 without flow."""
        gaps = [np.abs(self.incoming[name] - self.outgoing[name]).max() for name in self.incoming]
        return float(max(gaps, default=0.0)) / self.flow if self.flow else 0.0


@dataclass(frozen=True)
class Point:
    """What a score leaves of a network at one compression.

    Attributes:
        score: Its name.
        compression: Weights of the network per weight kept.
        kept: Weights kept, by parameter.
        collapsed: Parameters that keep none.
        flow: Synaptic flow of the masked network; 0 where no path leads from input to output.
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


def conservation(
    model: nn.Module, example_inputs: Batch, sites: Sites, masks: WeightMasks | None = None
) -> Conservation:
    """Measure synaptic flow; the network is left as it was.

    Args:
        model: The network.
        example_inputs: What it is called on.
        sites: Its sites, whose units are looked at.
        masks: Which weights stay; all, if none are given.
    """
    weights = {name: weight.double().abs() for name, weight in maskable(model).items()}
    masked = {n: w * masks[n].to(w.device) if masks is not None and n in masks else w for n, w in weights.items()}
    flow = synaptic_flow(model, example_inputs)
    scores = {name: masked[name] * slope for name, slope in slopes(flow, masked).items()}
    known = {n: s for n, s in sites.items() if {*s.producers, *s.consumers} <= scores.keys() and s.unit == "channel"}
    return Conservation(
        flow=float(flow(masked)),
        layers={name: float(score.sum()) for name, score in scores.items()},
        incoming={name: _through(site, scores, _makers(model, site), 0) for name, site in known.items()},
        outgoing={name: _through(site, scores, site.consumers, 1) for name, site in known.items()},
    )


def collapse_curve(
    model: nn.Module,
    score: str,
    compressions: Sequence[float],
    *,
    example_inputs: Batch,
    batches: Iterable[Any] = (),
    **rule: Any,
) -> tuple[Point, ...]:
    """What a score leaves at each compression; the network is left as it was.

    Args:
        model: The network.
        score: Name of a weight score.
        compressions: Weights of the network per weight kept, each 1 or more.
        example_inputs: What the network is called on.
        batches: Pairs of inputs and labels, for scores with labels.
        **rule: As for `mask_weights`.

    Raises:
        InvalidSetting: If a compression is below 1.
        PruneError: As `mask_weights` does.
    """
    if not compressions or min(compressions) < 1:
        raise InvalidSetting(f"compressions are numbers of 1 or more, at least one; given {list(compressions)}")
    flow, given = synaptic_flow(model, example_inputs), list(batches)
    magnitudes = {name: weight.abs() for name, weight in maskable(model).items()}
    points = []
    for compression in compressions:
        options: dict[str, Any] = {"example_inputs": example_inputs, "batches": given, "on_collapse": "allow", **rule}
        masks = mask_weights(model, 1 / compression, score=score, **options).masks
        with torch.no_grad():
            left = float(flow({name: size * masks[name] for name, size in magnitudes.items()}))
        points.append(Point(score, compression, masks.counts, collapsed(masks), left))
    return tuple(points)


def critical_compression(points: Iterable[Point]) -> float | None:
    """The largest compression up to which no layer has been emptied; None if one has at each.

    Source: Tanaka et al., NeurIPS 2020; there on a grid of powers of 10^0.25.
    """
    critical = None
    for point in sorted(points, key=lambda point: point.compression):
        if point.collapsed:
            break
        critical = point.compression
    return critical


def _makers(model: nn.Module, site: Site) -> list[str]:
    """Producers that make the units of other units, and do not pass them on one by one."""
    return [name for name in site.producers if not _depthwise(model.get_submodule(name.rpartition(".")[0]))]


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, ConvolutionBase) and module.groups == module.in_channels > 1


def _through(site: Site, scores: Mapping[str, Tensor], names: Iterable[str], dim: int) -> FloatArray:
    """Sum of the scores of these weights for each unit, which is in dimension `dim` of them."""
    total = torch.zeros(site.width, dtype=torch.float64)
    for name in names:
        entries = scores[name].movedim(dim, 0).flatten(1).sum(1).cpu()
        total += entries[torch.from_numpy(site.slot(name, dim).index)].sum(1)
    return total.numpy()
