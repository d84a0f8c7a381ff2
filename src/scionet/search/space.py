"""What a search chooses from, and what each choice costs.

Source: Dong and Yang, *Network Pruning via Transformable Architecture Search*, NeurIPS 2019, and its code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from scionet.budget.budget import Budget
from scionet.budget.costs import Cost, measure
from scionet.errors import InvalidSetting, PruneError, UnreachableBudget, UnsupportedModel
from scionet.models.searched import Chain, narrow_
from scionet.network.calling import Batch
from scionet.network.guard import guarded
from scionet.network.network import Network
from scionet.network.surgery.cut import copied
from scionet.search.architecture import Architecture

_RATIOS = range(3, 11)
"""Tenths of a full width that may be chosen."""


def width_choices(width: int) -> tuple[int, ...]:
    """The widths that may be chosen in place of `width`: its 30, 40, ..., 100 %, rounded down, at least 1."""
    return tuple(sorted({max(1, width * tenths // 10) for tenths in _RATIOS}))


def depth_choices(blocks: int) -> tuple[int, ...]:
    """The numbers of blocks that may be kept of a stage: all of up to three, otherwise odd ones and all."""
    return tuple(range(1, blocks + 1)) if blocks <= 3 else tuple(sorted({*range(1, blocks + 1, 2), blocks}))


@dataclass(frozen=True)
class LayerCost:
    """A convolution.

    Attributes:
        width: Its full width.
        area: MACs per channel of its input and its output: output pixels times entries of the kernel.
    """

    width: int
    area: int

    @cached_property
    def choices(self) -> tuple[int, ...]:
        """The widths that may be chosen."""
        return width_choices(self.width)


@dataclass(frozen=True)
class BlockCost:
    """A block.

    Attributes:
        layers: Its convolutions.
        shortcut: MACs of a 1 x 1 convolution on the shortcut, per channel of input and output; 0 without a shortcut.
        always: Whether that convolution is there also where input and output are equally wide.
    """

    layers: tuple[LayerCost, ...]
    shortcut: int
    always: bool

    def macs(self, channels: int, widths: Sequence[int]) -> int:
        """MACs of the block.

        Args:
            channels: Channels of its input.
            widths: Widths of its convolutions.
        """
        pairs = zip(self.layers, [channels, *widths], widths, strict=False)
        inner = sum(layer.area * read * written for layer, read, written in pairs)
        added = self.always or channels != widths[-1]
        return inner + added * self.shortcut * channels * widths[-1]


@dataclass(frozen=True)
class StageCost:
    """A stage.

    Attributes:
        blocks: Its blocks.
        residual: Whether blocks can be left out.
    """

    blocks: tuple[BlockCost, ...]
    residual: bool

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """The numbers of blocks that may be kept."""
        return depth_choices(len(self.blocks))


@dataclass(frozen=True)
class SearchSpace:
    """The widths and depths from which a search chooses, and their costs.

    Attributes:
        channels: Channels of the input.
        stages: The stages.
        head: MACs of the first linear layer per channel of the last convolution.
        fixed: MACs of what is not searched.
    """

    channels: int
    stages: tuple[StageCost, ...]
    head: int
    fixed: int = 0

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Batch) -> "SearchSpace":
        """The space of a network, which is not changed.

        Raises:
            UnsupportedModel: If the network is no chain of convolutions; the error says which are supported.
        """
        return _space(model, example_inputs)

    @property
    def layers(self) -> tuple[LayerCost, ...]:
        """All convolutions in order."""
        return tuple(layer for stage in self.stages for block in stage.blocks for layer in block.layers)

    @property
    def residual_stages(self) -> tuple[StageCost, ...]:
        """The stages whose depth is chosen."""
        return tuple(stage for stage in self.stages if stage.residual)

    @property
    def full(self) -> Architecture:
        """All channels and blocks."""
        depths = (len(stage.blocks) for stage in self.residual_stages)
        return Architecture((self.channels, *(layer.width for layer in self.layers)), tuple(depths))

    @property
    def cheapest(self) -> Architecture:
        """The smallest choices everywhere."""
        depths = (stage.depths[0] for stage in self.residual_stages)
        return Architecture((self.channels, *(layer.choices[0] for layer in self.layers)), tuple(depths))

    def macs(self, architecture: Architecture) -> int:
        """MACs of a network that is built as an architecture says: each block reads the last kept one before it."""
        return self._counted(architecture, removed_count=False)

    def estimated_macs(self, architecture: Architecture) -> int:
        """MACs as the official code estimates them: a block reads the widths before it in the list, removed or not."""
        return self._counted(architecture, removed_count=True)

    def _counted(self, architecture: Architecture, removed_count: bool) -> int:
        widths, depths = iter(architecture.xchannels[1:]), iter(architecture.xblocks)
        total, channels = self.fixed, architecture.xchannels[0]
        for stage in self.stages:
            depth = next(depths) if stage.residual else 1
            for number, block in enumerate(stage.blocks):
                own = [next(widths) for _ in block.layers]
                if number < depth:
                    total += block.macs(channels, own)
                if number < depth or removed_count:
                    channels = own[-1]
        return total + self.head * channels

    def target(self, budget: "Budget | str | Mapping[str, object]") -> float:
        """The MACs that a budget allows; percentages are of the full network as `macs` counts it.

        Raises:
            InvalidSetting: If the budget limits something else than MACs.
            UnreachableBudget: If the cheapest architecture exceeds it.
        """
        limits = Budget.of(budget)
        if limits.quantities != {"macs"}:
            raise InvalidSetting(f"a search limits MACs alone; given {limits}; give for example 'macs<=50%'")
        full, least = self.macs(self.full), self.macs(self.cheapest)
        target = limits.absolute(Cost(full, 0)).macs
        if target < least:
            raise UnreachableBudget(
                f"the cheapest architecture has {least:,} MACs, {least / full:.2%} of the full network's; {limits} "
                f"allows {target:,.0f}; raise the budget, or prune the network with scionet.prune"
            )
        return target

    @property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """The choices of every convolution's width, then those of every residual stage's depth."""
        return (*(layer.choices for layer in self.layers), *(stage.depths for stage in self.residual_stages))

    def at(self, positions: Sequence[int]) -> Architecture:
        """The architecture of one position in each of `choices`."""
        picked = [options[position] for options, position in zip(self.choices, positions, strict=True)]
        count = len(self.layers)
        return Architecture((self.channels, *picked[:count]), tuple(picked[count:]))


@guarded
def _space(model: nn.Module, example_inputs: Batch) -> SearchSpace:
    chain = Chain.of(model)
    sizes = _output_sizes(model, chain, example_inputs)
    _refuse_other_wiring(model, chain, example_inputs)
    modules: Any = dict(model.named_modules())

    def layer_of(path: str) -> LayerCost:
        conv = modules[path]
        return LayerCost(conv.out_channels, sizes[path] * conv.kernel_size[0] * conv.kernel_size[1])

    def block_of(block: Any) -> BlockCost:
        strided = block.residual and modules[block.name].conv1.stride[0] > 1
        shortcut = sizes[block.layers[-1].conv] if block.residual else 0
        return BlockCost(tuple(layer_of(layer.conv) for layer in block.layers), shortcut, strided)

    stages = tuple(StageCost(tuple(map(block_of, stage.blocks)), stage.residual) for stage in chain.stages)
    head, first, last = modules[chain.head], modules[chain.layers[0].conv], stages[-1].blocks[-1].layers[-1].width
    space = SearchSpace(first.in_channels, stages, head.in_features // last * head.out_features)
    full = copied(model)
    narrow_(full, space.full.xchannels, space.full.xblocks)
    fixed = measure(full, example_inputs).macs - space.macs(space.full)
    return SearchSpace(space.channels, stages, space.head, round(fixed))


def _output_sizes(model: nn.Module, chain: Chain, example_inputs: Batch) -> dict[str, int]:
    """Output pixels of every convolution.

    Raises:
        UnsupportedModel: If they do not each run once, in the order in which they are registered.
    """
    paths = [layer.conv for layer in chain.layers]
    sizes: list[tuple[str, int]] = []
    network = Network(model)

    def noted(path: str) -> Any:
        return lambda _module, _args, output: sizes.append((path, output.shape[2] * output.shape[3]))

    hooks = [model.get_submodule(path).register_forward_hook(noted(path)) for path in paths]
    try:
        with network.evaluating():
            network.returned(network.placed(example_inputs))
    finally:
        for hook in hooks:
            hook.remove()
    if [path for path, _ in sizes] != paths:
        raise UnsupportedModel(
            f"the convolutions of {type(model).__name__} do not each run once in the order in which they are "
            "registered; a search needs a chain; register them in the order in which they run"
        )
    return dict(sizes)


def _refuse_other_wiring(model: nn.Module, chain: Chain, example_inputs: Batch) -> None:
    """Run a copy in which all widths differ, which only a chain survives.

    Raises:
        UnsupportedModel: If it fails.
    """
    modules: Any = dict(model.named_modules())
    full = [modules[layer.conv].out_channels for layer in chain.layers]
    widths = [max(1, width - number % max(1, width - 2)) for number, width in enumerate(full)]
    depths = [len(stage.blocks) for stage in chain.stages if stage.residual]
    trial = copied(model)
    narrow_(trial, [modules[chain.layers[0].conv].in_channels, *widths], depths)
    network = Network(trial)
    try:
        with network.evaluating(), torch.no_grad():
            network.returned(network.placed(example_inputs))
    except PruneError:
        raise
    except Exception as error:  # whatever a forward raises
        raise UnsupportedModel(
            f"{type(model).__name__} is no chain: with another width in every convolution it fails "
            f"({type(error).__name__}: {str(error).splitlines()[0]:.120}). Additions and concatenations of searched "
            "convolutions are supported only within scionet's residual blocks (scionet.models.resnets.Residual); prune "
            "this network with scionet.prune, which has sites for them"
        ) from error
