"""Hand-made networks: each once as `Sites`, and once as a torch module of any widths, built from scratch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor, nn

from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.network.sites import Operation, Site, Sites, Slot
from scionet.typing import FloatArray

SIZE = 5
"""Height and width of every image and feature map."""


@dataclass(frozen=True)
class Net:
    """Sites written down by hand, and the module that has these sites."""

    sites: Sites
    build: Callable[[Mapping[str, int]], nn.Module]
    inputs: Tensor


def slot(tensor: str, dim: int, width: int, per_unit: int = 1, start: int = 0) -> Slot:
    """A slot of consecutive entries, unit after unit."""
    return Slot(tensor, dim, start + np.arange(width * per_unit).reshape(width, per_unit))


def channels(name: str, dim0: Sequence[str], vectors: Sequence[str], dim1: Sequence[str], width: int) -> Site:
    """A site that shrinks dimension 0 of some tensors and dimension 1 of others."""
    slots = [slot(t, 0, width) for t in (*dim0, *vectors)] + [slot(t, 1, width) for t in dim1]
    return Site(name, width, tuple(slots), tuple(dim0), tuple(dim1))


def sites_of(model: nn.Module, sites: Sequence[Site], operations: Sequence[Operation]) -> Sites:
    """`Sites` with the shapes of a real module."""
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    parameters = tuple(name for name, _ in model.named_parameters())
    return Sites({s.name: s for s in sites}, {}, tuple(operations), shapes, parameters)


def conv_bn(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Convolution with bias, then BatchNorm; the size of the map stays."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def conv_macs(inputs: int, outputs: int, kernel: int, groups: int = 1) -> int:
    """MACs of a convolution on a map of `SIZE` x `SIZE`, by the textbook."""
    return SIZE * SIZE * outputs * inputs // groups * kernel * kernel


def chain(widths: Sequence[int], *, flatten: bool = False, classes: int = 3) -> Net:
    """Convolutions one after another, then a linear layer on pooled or flattened maps."""

    def build(kept: Mapping[str, int]) -> nn.Sequential:
        sizes = [2, *(kept.get(f"{i}.0", w) for i, w in enumerate(widths))]
        convs = [conv_bn(a, b, 3) for a, b in pairwise(sizes)]
        head = [nn.Flatten()] if flatten else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*convs, *head, nn.Linear(sizes[-1] * per_unit, classes))

    per_unit = SIZE * SIZE if flatten else 1
    model = build({})
    last = f"{len(model) - 1}.weight"
    sites, operations = [], []
    for i, (before, width) in enumerate(zip([2, *widths], widths, strict=False)):
        operations.append(Operation(f"{i}.0.weight", conv_macs(before, width, 3)))
        vectors = [f"{i}.0.bias", *(f"{i}.1.{t}" for t in ("weight", "bias", "running_mean", "running_var"))]
        dim1 = [f"{i + 1}.0.weight"] if i + 1 < len(widths) else []
        site = channels(f"{i}.0", [f"{i}.0.weight"], vectors, dim1, width)
        if i + 1 == len(widths):
            site = Site(site.name, width, (*site.slots, slot(last, 1, width, per_unit)), site.producers, (last,))
        sites.append(site)
    operations.append(Operation(last, widths[-1] * per_unit * classes))
    return Net(sites_of(model, sites, operations), build, torch.zeros(2, 2, SIZE, SIZE))


class Mixed(nn.Module):
    """Stem, depthwise, residual block, grouped convolution, concatenation, attention-like product."""

    def __init__(self, stem: int, inner: int, groups: int, left: int, right: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.depthwise = nn.Conv2d(stem, stem, 3, padding=1, groups=stem, bias=False)
        self.expand = nn.Conv2d(stem, inner, 1)
        self.project = nn.Conv2d(inner, stem, 3, padding=1)
        self.mix = nn.Conv2d(stem, stem, 1)
        self.widen = nn.Conv2d(stem, 2 * groups, 1)
        self.grouped = nn.Conv2d(2 * groups, 3 * groups, 3, padding=1, groups=groups)
        self.left = nn.Conv2d(3 * groups, left, 1)
        self.right = nn.Conv2d(3 * groups, right, 1)
        self.head = nn.Conv2d(left + right, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The forward pass; the last product has no weight."""
        x = self.depthwise(self.stem(x))
        x = self.mix(x + self.project(self.expand(x)))
        x = self.grouped(self.widen(x))
        x = self.head(torch.cat([self.left(x), self.right(x)], 1)).flatten(2)
        return x @ x.transpose(1, 2)


def mixed(stem: int = 6, inner: int = 7, groups: int = 4, left: int = 3, right: int = 5) -> Net:
    """Every way of coupling; a stream that is both dimensions of one weight, units of several entries, a cat."""

    def build(kept: Mapping[str, int]) -> nn.Module:
        full = {"stem": stem, "expand": inner, "widen": groups, "left": left, "right": right}
        return Mixed(*(kept.get(name, width) for name, width in full.items()))

    model = build({})
    rows = ["stem.weight", "depthwise.weight", "project.weight", "mix.weight"]
    streams = channels(
        "stem", rows, ["stem.bias", "project.bias", "mix.bias"], ["expand.weight", "mix.weight", "widen.weight"], stem
    )
    groups_slots = (
        *(slot(t, 0, groups, 2) for t in ("widen.weight", "widen.bias")),
        *(slot(t, 0, groups, 3) for t in ("grouped.weight", "grouped.bias")),
        *(slot(t, 1, groups, 3) for t in ("left.weight", "right.weight")),
    )
    parts = [
        Site(
            name,
            width,
            (
                slot(f"{name}.weight", 0, width),
                slot(f"{name}.bias", 0, width),
                slot("head.weight", 1, width, start=start),
            ),
            (f"{name}.weight",),
            ("head.weight",),
        )
        for name, width, start in (("left", left, 0), ("right", right, left))
    ]
    sites = [
        streams,
        channels("expand", ["expand.weight"], ["expand.bias"], ["project.weight"], inner),
        Site("widen", groups, groups_slots, ("widen.weight",), ("left.weight", "right.weight"), unit="group"),
        *parts,
    ]
    macs = {
        "stem": conv_macs(3, stem, 3),
        "depthwise": conv_macs(stem, stem, 3, stem),
        "expand": conv_macs(stem, inner, 1),
        "project": conv_macs(inner, stem, 3),
        "mix": conv_macs(stem, stem, 1),
        "widen": conv_macs(stem, 2 * groups, 1),
        "grouped": conv_macs(2 * groups, 3 * groups, 3, groups),
        "left": conv_macs(3 * groups, left, 1),
        "right": conv_macs(3 * groups, right, 1),
        "head": conv_macs(left + right, 4, 1),
    }
    operations = [Operation(f"{name}.weight", m) for name, m in macs.items()]
    operations.append(Operation(None, 4 * 4 * SIZE * SIZE))
    return Net(sites_of(model, sites, operations), build, torch.zeros(2, 3, SIZE, SIZE))


def separate(widths: Sequence[int], macs_per_unit: Sequence[int]) -> Sites:
    """Sites that touch neither each other nor each other's weights, so that costs are additive."""
    shapes = {f"s{i}.weight": (width, 1) for i, width in enumerate(widths)}
    sites = {
        f"s{i}": Site(f"s{i}", width, (slot(f"s{i}.weight", 0, width),), (f"s{i}.weight",), ())
        for i, width in enumerate(widths)
    }
    operations = tuple(
        Operation(f"s{i}.weight", width * macs)
        for i, (width, macs) in enumerate(zip(widths, macs_per_unit, strict=True))
    )
    return Sites(sites, {}, operations, shapes, tuple(shapes))


def all_allowed(model: CostModel, round_to: int = 1, min_units: int = 1) -> list[dict[str, int]]:
    """Every combination of widths that rounding allows."""
    options = [
        [k for k in range(1, full + 1) if k == full or (k % round_to == 0 and k >= min_units)]
        for full in model.full.tolist()
    ]
    return [dict(zip(model.names, kept, strict=True)) for kept in product(*options)]


def brute_force(model: CostModel, budget: str, errors: Mapping[str, FloatArray], round_to: int = 1) -> float:
    """The least summed error of all combinations of widths at or below the budget; infinite if there is none."""
    limits = Budget(budget)
    return min(
        (
            float(sum(errors[name][kept] for name, kept in widths.items()))
            for widths in all_allowed(model, round_to)
            if limits.met(model.cost(widths), model.dense)
        ),
        default=np.inf,
    )
