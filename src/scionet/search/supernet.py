"""The supernet: one network that contains all widths and depths of a search space, with shared weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scionet.models.resnets import Residual
from scionet.models.searched import Chain, norm_like, replace_module
from scionet.network.surgery.cut import copied
from scionet.search.architecture import Architecture
from scionet.search.relaxation import interpolated, padded, perturbed, sampled
from scionet.search.space import SearchSpace, StageCost
from scionet.training.initialise import initialise

_SPREAD = 0.01
"""Standard deviation of the initial logits."""


@dataclass(frozen=True, eq=False)
class Picked:
    """The candidates of a convolution or a stage in one step.

    Attributes:
        indices: Their positions among the choices.
        weights: Their weights, ``(candidates,)``, which sum to 1; None for a single one.
    """

    indices: tuple[int, ...]
    weights: Tensor | None = None

    def merged(self, outputs: list[Tensor]) -> Tensor:
        """The outputs of the candidates, interpolated to the widest and added with their weights."""
        if self.weights is None:
            return outputs[0]
        widest = max(output.shape[1] for output in outputs)
        parts = [weight * interpolated(each, widest) for weight, each in zip(self.weights, outputs, strict=True)]
        return sum(parts[1:], parts[0])


class Choice(nn.Module):
    """A choice that is searched.

    Attributes:
        choices: The widths, or the depths.
        logits: Their logits, ``(choices,)``. They are a buffer: not weights, yet part of the network's state.
        picked: The candidates of this step.
    """

    logits: Tensor

    def __init__(self, choices: tuple[int, ...]) -> None:
        super().__init__()
        self.choices = choices
        self.register_buffer("logits", torch.zeros(len(choices)))
        self.picked = Picked((0,))


class SearchedConv(Choice):
    """A convolution of full width, of which candidates use the first channels, each with a BatchNorm of its own."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, choices: tuple[int, ...]) -> None:
        super().__init__(choices)
        self.conv = conv
        self.norms = nn.ModuleList(norm_like(norm, width) for width in choices)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs narrower than the convolution's are padded with zeros."""
        full = self.conv(padded(x, self.conv.in_channels))
        outputs = [self.norms[index](full[:, : self.choices[index]]) for index in self.picked.indices]
        return self.picked.merged(outputs)


class SearchedResidual(nn.Module):
    """A residual block of two searched convolutions."""

    def __init__(self, block: Residual, inner: SearchedConv, outer: SearchedConv) -> None:
        super().__init__()
        stride = block.conv1.stride[0]
        self.inner, self.outer = inner, outer
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True)
        channels, width = block.conv1.in_channels, block.conv2.out_channels
        self.shortcut = nn.Conv2d(channels, width, 1, bias=False) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """The narrower of the two summands is padded with zeros."""
        y = self.outer(functional.relu(self.inner(x)))
        if self.shortcut is not None:
            full = self.shortcut(padded(self.pool(x), self.shortcut.in_channels))
            picked = self.outer.picked
            x = picked.merged([full[:, : self.outer.choices[index]] for index in picked.indices])
        widest = max(x.shape[1], y.shape[1])
        return functional.relu(padded(x, widest) + padded(y, widest))


class SearchedStage(Choice):
    """A stage whose output is a weighted sum over the blocks behind which it may end."""

    def __init__(self, blocks: list[nn.Module], choices: tuple[int, ...]) -> None:
        super().__init__(choices)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """All blocks up to the last candidate run."""
        ends = {self.choices[index]: index for index in self.picked.indices}
        outputs = []
        for number in range(1, max(ends) + 1):
            x = self.blocks[number - 1](x)
            if number in ends:
                outputs.append(x)
        return self.picked.merged(outputs)


class PaddedLinear(nn.Module):
    """A linear layer that uses the leading columns of its weight where its input is narrower."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(batch, features)``."""
        return self.linear(padded(x, self.linear.in_features))


class Supernet(nn.Module):
    """A network whose widths and depths are chosen in every forward pass.

    In train mode, widths are sampled and depths are weighted. In eval mode, the most probable ones are taken.

    Attributes:
        space: The search space.
        candidates: Widths of each convolution that run in a step.
        temperature: The temperature of the Gumbel-softmax.
        network: The network, with searched modules in place of its own.
    """

    def __init__(self, model: nn.Module, space: SearchSpace, candidates: int = 2, seed: int = 0) -> None:
        """Make the supernet of a network, with new weights.

        Args:
            model: The network, which is not changed.
            space: Its search space.
            candidates: Widths of each convolution that run in a step.
            seed: Seed of weights and logits.
        """
        super().__init__()
        self.space, self.candidates, self.temperature = space, candidates, 1.0
        self.network = copied(model)
        self._convs = tuple(_replace(self.network, space))
        self._stages = tuple(each for each in self.network.modules() if isinstance(each, SearchedStage))
        initialise(self, seed)
        generator = torch.Generator().manual_seed(seed)
        for logits in self.logits():
            logits.copy_(torch.empty(logits.shape).normal_(0, _SPREAD, generator=generator))

    @property
    def convs(self) -> tuple[SearchedConv, ...]:
        """The searched convolutions in order."""
        return self._convs

    def logits(self) -> tuple[Tensor, ...]:
        """The logits of every convolution, then those of every residual stage."""
        return tuple(choice.logits for choice in (*self._convs, *self._stages))

    def probabilities(self) -> tuple[list[Tensor], list[Tensor]]:
        """Probabilities of the widths of every convolution, and of the depths of every residual stage."""
        found = [logits.softmax(0) for logits in self.logits()]
        return found[: len(self._convs)], found[len(self._convs) :]

    @property
    def architecture(self) -> Architecture:
        """The most probable width of every convolution and depth of every stage; of equal ones the first."""
        return self.space.at(self._most_probable())

    def _most_probable(self) -> list[int]:
        return [int(logits.detach().argmax()) for logits in self.logits()]

    def forward(self, x: Tensor) -> Tensor:
        """What the network returns."""
        self._pick()
        try:
            return self.network(x)
        finally:
            for choice in (*self._convs, *self._stages):
                choice.picked = Picked((0,))  # no graph is left behind

    def _pick(self) -> None:
        """Choose the candidates of this pass."""
        if not self.training:
            for choice, index in zip((*self._convs, *self._stages), self._most_probable(), strict=True):
                choice.picked = Picked((index,))
            return
        longest = max(len(conv.choices) for conv in self._convs)
        table = torch.stack(
            [functional.pad(conv.logits, (0, longest - len(conv.choices)), value=-torch.inf) for conv in self._convs]
        )
        picked, weights = sampled(perturbed(table, self.temperature), self.candidates)
        for conv, indices, own in zip(self._convs, picked.tolist(), weights, strict=True):
            real = [place for place, index in enumerate(indices) if index < len(conv.choices)]
            conv.picked = Picked(tuple(indices[place] for place in real), own[real])
        for stage in self._stages:
            shares = perturbed(stage.logits, self.temperature).softmax(0)
            stage.picked = Picked(tuple(range(len(stage.choices))), shares)


def _replace(network: Any, space: SearchSpace) -> list[SearchedConv]:
    """Put searched modules in place of a network's own; the searched convolutions in order."""
    chain = Chain.of(network)
    modules = dict(network.named_modules())
    found: list[SearchedConv] = []
    for stage, cost in zip(chain.stages, space.stages, strict=True):
        blocks = []
        for block, block_cost in zip(stage.blocks, cost.blocks, strict=True):
            pairs = zip(block.layers, block_cost.layers, strict=True)
            own = [SearchedConv(modules[layer.conv], modules[layer.norm], each.choices) for layer, each in pairs]
            found += own
            blocks.append(SearchedResidual(modules[block.name], *own) if block.residual else own[0])
        _put(network, chain, stage, cost, blocks)
    replace_module(network, chain.head, PaddedLinear(modules[chain.head]))
    return found


def _put(network: nn.Module, chain: Chain, stage: Any, cost: StageCost, blocks: list[nn.Module]) -> None:
    """Put one stage in its place."""
    if stage.residual:
        replace_module(network, stage.name, SearchedStage(blocks, cost.depths))
        return
    (layer,) = stage.blocks[0].layers
    replace_module(network, layer.conv, blocks[0])
    replace_module(network, layer.norm, nn.Identity())
