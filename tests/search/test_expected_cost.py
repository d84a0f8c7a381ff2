"""Expected MACs against enumeration, and the cost term."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from scionet.search.expected_cost import CostTerm, expected_macs
from scionet.search.space import BlockCost, LayerCost, SearchSpace, StageCost

TINY = SearchSpace(
    2,
    (
        StageCost((BlockCost((LayerCost(2, 36),), 0, False),), False),
        StageCost(tuple(BlockCost((LayerCost(2, 36), LayerCost(3, 36)), 4, False) for _ in range(3)), True),
        StageCost(tuple(BlockCost((LayerCost(1, 9), LayerCost(2, 9)), 1, first) for first in (True, False)), True),
    ),
    head=10,
    fixed=100,
)
"""Two residual stages; widths of 1 to 3 channels."""


def random_logits(space: SearchSpace, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(len(options), dtype=torch.float64, generator=generator) for options in space.choices]


def expected(space: SearchSpace, logits: list[Tensor]) -> Tensor:
    probabilities = [each.softmax(0) for each in logits]
    count = len(space.layers)
    return expected_macs(space, probabilities[:count], probabilities[count:])


@pytest.mark.parametrize("seed", [0, 1])
def test_expected_macs_are_the_mean_over_all_architectures(seed: int) -> None:
    space = SearchSpace(TINY.channels, TINY.stages[:2], TINY.head, TINY.fixed)
    logits = random_logits(space, seed)
    probabilities = [each.softmax(0).tolist() for each in logits]
    mean = 0.0
    for positions in itertools.product(*(range(len(options)) for options in space.choices)):
        share = math.prod(p[position] for p, position in zip(probabilities, positions, strict=True))
        mean += share * space.macs(space.at(positions))
    assert float(expected(space, logits)) == pytest.approx(mean, rel=1e-12)


def test_one_hot_probabilities_cost_what_their_architecture_costs() -> None:
    generator = torch.Generator().manual_seed(0)
    depths = set()
    for _ in range(60):
        positions = [int(torch.randint(len(options), (), generator=generator)) for options in TINY.choices]
        logits = [torch.zeros(len(options), dtype=torch.float64) for options in TINY.choices]
        for own, position in zip(logits, positions, strict=True):
            own[position] = 50.0
        architecture = TINY.at(positions)
        depths.add(architecture.xblocks)
        assert float(expected(TINY, logits)) == pytest.approx(TINY.macs(architecture), rel=1e-12)
    assert len(depths) == 6


def test_expected_macs_are_differentiable() -> None:
    logits = [each.requires_grad_() for each in random_logits(TINY)]
    assert torch.autograd.gradcheck(lambda *given: expected(TINY, [*given]), logits)


CHAIN = SearchSpace(
    3, tuple(StageCost((BlockCost((LayerCost(width, 900),), 0, False),), False) for width in (16, 32, 64)), head=10
)


@pytest.mark.parametrize("density", [0.3, 0.5, 0.8])
def test_the_cost_alone_moves_the_macs_to_the_target_and_rests_there(density: float) -> None:
    full = CHAIN.macs(CHAIN.full)
    term = CostTerm(density * full, 0.05 * full, 0.0)
    logits = [(0.01 * each).requires_grad_() for each in random_logits(CHAIN)]  # as a search begins
    optimizer = torch.optim.Adam(logits, lr=0.1)
    moves = []
    for _ in range(200):
        macs = CHAIN.macs(CHAIN.at([int(each.detach().argmax()) for each in logits]))
        if term.met(macs):
            break
        optimizer.zero_grad()
        before = expected(CHAIN, logits)
        term(before, macs).backward()
        optimizer.step()
        moves.append((expected(CHAIN, logits) - before).item() * term.sign(macs))
    assert moves[0] < 0
    assert term.met(macs)
    optimizer.zero_grad()
    term(expected(CHAIN, logits), macs).backward()
    assert all(float(each.grad.abs().sum()) == 0 for each in logits)  # type: ignore[union-attr]


def test_the_tolerance_has_two_sides() -> None:
    term = CostTerm(50, 5, 2)
    assert [term.sign(macs) for macs in (44.9, 45, 50, 52, 52.1)] == [-1, 0, 0, 0, 1]
    assert [term.met(macs) for macs in (44.9, 45, 50, 50.1)] == [False, True, True, False]
    assert float(term(torch.tensor(math.e * 1e6), 60.0)) == pytest.approx(1)
    assert float(term(torch.tensor(math.e * 1e6), 40.0)) == pytest.approx(-1)
