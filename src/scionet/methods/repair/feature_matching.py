"""The distance of a cut network from the dense one as a loss: at the output, and behind the consumers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scionet.methods.widths.output_distance import OutputDistance
from scionet.network.branches import remaining
from scionet.network.calling import Batch, call, example_count, place_of, to_model
from scionet.network.plan import Plan
from scionet.network.sites import Consumer, Sites
from scionet.network.surgery.cut import kept_entries
from scionet.torch_internals import BatchNormBase, ConvolutionBase, tree_map


@dataclass(frozen=True, eq=False)
class FeatureMatching:
    """The distance of a cut network from the dense one: at the output, and behind the consumers.

    Attributes:
        distance: The dense network's outputs on examples that nothing is fitted on, and how outputs are compared.
        student: The network that is trained.
        kept: By module behind a consumer, the channel dimension of its output and the channels that stay.
        seen: The latest outputs of these modules, of the dense network and of the student.
    """

    distance: OutputDistance
    student: nn.Module
    kept: Mapping[str, tuple[int, Tensor | None]]
    seen: tuple[dict[str, Tensor], dict[str, Tensor]]

    def held_out_distance(self) -> float:
        """The mean distance of the outputs on the held-out examples."""
        total = 0.0
        for batch, dense in zip(self.distance.inputs, self.distance.outputs, strict=True):
            with torch.no_grad():
                outputs = self.distance.picked(_returned(self.student, batch))
            total += float(self.distance.distances(outputs, dense, example_count(batch)).sum())
        return total / self.distance.n_examples

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a step: the mean of the relative squared errors of each output and behind consumers."""
        with torch.no_grad():
            targets = self.distance.picked(_returned(self.distance.network.model, batch))
        outputs = self.distance.errors_of(_returned(self.student, batch), targets, example_count(batch))
        dense, student = self.seen
        gaps = [self._gap(name, dense[name], student[name]) for name in self.kept if name in dense and name in student]
        return torch.stack([*outputs, *gaps]).mean()

    def _gap(self, name: str, dense: Tensor, student: Tensor) -> Tensor:
        """The relative squared error of one module's output."""
        dim, channels = self.kept[name]
        target = dense if channels is None else dense.index_select(dim, channels)
        return _relative(student, target)


def feature_matching(distance: OutputDistance, student: nn.Module, sites: Sites, plan: Plan) -> FeatureMatching:
    """Compare a cut network with the dense one behind all consumers that are called once.

    Args:
        distance: Distance from a copy of the dense network, which is put into eval mode.
        student: The cut network, which is put into eval mode too.
        sites: The sites of the dense network.
        plan: The plan that it was cut to.
    """
    keep, device = kept_entries(sites, plan), place_of(student)[0]
    kept: dict[str, tuple[int, Tensor | None]] = {}
    for consumer in remaining(sites, plan.dropped).consumers.values():
        if consumer.calls == 1 and (place := _place(student, consumer)) is not None:
            channels = keep.get(consumer.weight, {}).get(0)
            kept[place[0]] = place[1], None if channels is None else channels.to(device)
    seen: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
    for network, outputs in zip((distance.network.model, student), seen, strict=True):
        for module in network.modules():
            module.training = False
        for name in kept:
            _watch(network.get_submodule(name), name, outputs)
    return FeatureMatching(distance, student, kept, seen)


def _place(network: nn.Module, consumer: Consumer) -> tuple[str, int] | None:
    """The module behind a consumer whose output is compared, and its channel dimension; None if there is none."""
    name = consumer.module if consumer.norm is None else consumer.norm
    module = network.get_submodule(name)
    if isinstance(module, nn.Linear):
        return name, -1
    return (name, 1) if isinstance(module, ConvolutionBase | BatchNormBase) else None


def _watch(module: nn.Module, name: str, outputs: dict[str, Tensor]) -> None:
    """Keep the module's latest output."""

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs[name] = output

    module.register_forward_hook(keep)


def _relative(found: Tensor, target: Tensor) -> Tensor:
    """The squared error relative to the sum of squares of the target."""
    return (found - target).square().sum() / target.square().sum().clamp_min(1e-12)


def _returned(network: nn.Module, batch: Batch) -> Any:
    """What a network returns. It is called on a copy of the inputs, because it may change them."""
    return call(network, tree_map(_cloned, to_model(batch, network)))


def _cloned(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value
