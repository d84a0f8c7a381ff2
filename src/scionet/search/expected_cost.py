"""Expected MACs of an architecture that is chosen at random, and the cost that pulls them towards the budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scionet.search.space import BlockCost, SearchSpace


def expected_macs(space: SearchSpace, widths: Sequence[Tensor], depths: Sequence[Tensor]) -> Tensor:
    """E[MACs] where all widths and depths are chosen independently, in float64.

    It is exact, shortcuts and left-out blocks included: with one-hot probabilities it equals `SearchSpace.macs`.

    Args:
        space: The space.
        widths: Probabilities of the choices of every convolution, each ``(choices,)``.
        depths: Probabilities of the depths of every residual stage, each ``(choices,)``.
    """
    largest = 1 + max(space.channels, *(layer.width for layer in space.layers))
    pairs = zip(space.layers, widths, strict=True)
    own = iter([_over_widths(layer.choices, probabilities, largest) for layer, probabilities in pairs])
    given = iter(depths)
    read = _over_widths((space.channels,), widths[0].new_ones(1), largest)
    total = read.new_tensor(float(space.fixed))
    for stage in space.stages:
        chosen = next(given).double() if stage.residual else read.new_ones(1)
        ends = torch.zeros_like(read)
        for number, block in enumerate(stage.blocks, 1):
            written = [next(own) for _ in block.layers]
            kept = chosen[[place for place, depth in enumerate(stage.depths) if depth >= number]].sum()
            total = total + kept * _block(block, read, written)
            read = written[-1]
            if number in stage.depths:
                ends = ends + chosen[stage.depths.index(number)] * read
        read = ends
    return total + space.head * _mean(read)


def _over_widths(choices: Sequence[int], probabilities: Tensor, size: int) -> Tensor:
    """The distribution of a width over 0, 1, ..., size - 1."""
    places = torch.tensor(choices, device=probabilities.device)
    empty = torch.zeros(size, dtype=torch.float64, device=probabilities.device)
    return empty.index_add(0, places, probabilities.double())


def _mean(distribution: Tensor) -> Tensor:
    return (distribution * torch.arange(len(distribution), device=distribution.device)).sum()


def _block(block: BlockCost, read: Tensor, written: Sequence[Tensor]) -> Tensor:
    """Expected MACs of a block that is kept."""
    pairs = zip(block.layers, [read, *written], written, strict=False)
    total = sum(
        (layer.area * _mean(before) * _mean(after) for layer, before, after in pairs), torch.zeros_like(read[0])
    )
    if not block.shortcut:
        return total
    last = written[-1]
    squares = torch.arange(len(read), device=read.device).double().square()
    equal = 0.0 if block.always else (read * last * squares).sum()
    return total + block.shortcut * (_mean(read) * _mean(last) - equal)


@dataclass(frozen=True)
class CostTerm:
    """What is added to the loss of widths and depths.

    Attributes:
        target: MACs of the budget.
        below: How far below they may lie, MACs.
        above: How far above.
    """

    target: float
    below: float
    above: float

    def sign(self, macs: float) -> int:
        """1 if an architecture is too expensive, -1 if it is too cheap, 0 within the tolerance."""
        return (macs > self.target + self.above) - (macs < self.target - self.below)

    def met(self, macs: float) -> bool:
        """Whether an architecture is within the budget and the lower tolerance."""
        return self.target - self.below <= macs <= self.target

    def __call__(self, expected: Tensor, macs: float) -> Tensor:
        """The cost: ± log(expected MACs in millions), or 0 within the tolerance.

        Args:
            expected: Expected MACs.
            macs: MACs of the most probable architecture, which decide the sign.
        """
        return self.sign(macs) * (expected / 1e6).log()
