"""What a searched architecture is compared with: random architectures and uniform widths at equal MACs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from scionet.budget.budget import Budget
from scionet.choices.search import ArchitectureSearch
from scionet.errors import InvalidSetting
from scionet.network.calling import Batch
from scionet.search.architecture import Architecture
from scionet.search.architecture_search import train_architecture
from scionet.search.space import SearchSpace
from scionet.seeds import seeded
from scionet.training.fit import FitResult
from scionet.training.loading import Examples
from scionet.training.recipes import Recipe

GivenBudget = Budget | str | Mapping[str, object]
_TOLERANCE = ArchitectureSearch().tolerance_below


@dataclass(frozen=True, eq=False)
class TrainedArchitecture:
    """An architecture whose network was trained.

    Attributes:
        architecture: Widths and depths.
        macs: MACs of its network.
        model: The network, trained.
        training: The result of the training.
        validation: The last validation, such as an accuracy.
    """

    architecture: Architecture
    macs: int
    model: nn.Module
    training: FitResult
    validation: float


def random_architectures(
    space: SearchSpace, budget: GivenBudget, count: int = 20, *, tolerance: float = _TOLERANCE, seed: int = 0
) -> tuple[Architecture, ...]:
    """Different random architectures within a budget, and at most a tolerance below it.

    Each starts from independent uniform choices. Then random choices take the next smaller value while the architecture
    is too expensive, and the next larger value while it is too cheap and stays within the budget.

    Args:
        space: The search space.
        budget: A limit on MACs.
        count: Number of architectures.
        tolerance: How far below the budget their MACs may lie, as a fraction of the full network's.
        seed: Seed of all choices.

    Raises:
        InvalidSetting: If so many different ones are not found.
        UnreachableBudget: If even the cheapest one exceeds the budget.
    """
    target = space.target(budget)
    least = target - tolerance * space.macs(space.full)
    found: dict[Architecture, None] = {}
    for number in range(50 * count):
        positions = _positions(space, target, least, seeded(seed)("random architecture", number))
        if least <= space.macs(space.at(positions)) <= target:
            found[space.at(positions)] = None
        if len(found) == count:
            return tuple(found)
    raise InvalidSetting(
        f"only {len(found)} of {count} different architectures were found within {tolerance:.1%} below {budget}; raise "
        "the tolerance or ask for fewer"
    )


def _positions(space: SearchSpace, target: float, least: float, rng: np.random.Generator) -> list[int]:
    """Positions in `SearchSpace.choices`."""
    sizes = [len(options) for options in space.choices]
    positions = [int(rng.integers(size)) for size in sizes]
    while space.macs(space.at(positions)) > target:
        place = int(rng.choice([place for place, position in enumerate(positions) if position > 0]))
        positions[place] -= 1
    room = [place for place, size in enumerate(sizes) for _ in range(size - 1 - positions[place])]
    for place in rng.permutation(room).tolist():
        if space.macs(space.at(positions)) >= least:
            break
        raised = [*positions[:place], positions[place] + 1, *positions[place + 1 :]]
        if space.macs(space.at(raised)) <= target:
            positions = raised
    return positions


def uniform_architecture(space: SearchSpace, budget: GivenBudget) -> Architecture:
    """All blocks, and one fraction of every width: the largest that meets the budget; widths are rounded down.

    Raises:
        UnreachableBudget: If the cheapest architecture, or one channel everywhere, exceeds the budget.
    """
    target, widths = space.target(budget), [layer.width for layer in space.layers]
    ratios = sorted({(kept, width) for width in set(widths) for kept in range(1, width + 1)}, key=lambda r: r[0] / r[1])
    best = None
    for kept, width in ratios:
        channels = (space.channels, *(max(1, each * kept // width) for each in widths))
        candidate = Architecture(channels, space.full.xblocks)
        if space.macs(candidate) <= target:
            best = candidate
    return space.cheapest if best is None else best


def train_architectures(
    model: nn.Module,
    train: Examples,
    architectures: Sequence[Architecture],
    recipe: Recipe,
    *,
    example_inputs: Batch,
    validation: Examples,
    seed: int = 0,
    **settings: Any,
) -> tuple[TrainedArchitecture, ...]:
    """Train the network of every architecture in the same way, from new weights; the best validation comes first.

    Args:
        model: The full network: the teacher, if the recipe uses distillation. It is not changed.
        train: Training examples.
        architectures: Widths and depths.
        recipe: How to train.
        example_inputs: Inputs of the model.
        validation: Examples by which they are compared.
        seed: Root of all randomness.
        **settings: Further arguments of `scionet.fit`.
    """
    space = SearchSpace.of(model, example_inputs)
    found = []
    for architecture in architectures:
        network, result = train_architecture(
            model, architecture, train, recipe, seed=seed, validation=validation, **settings
        )
        last = result.history[-1].validation
        assert last is not None, "fit validates where there are validation data"
        found.append(TrainedArchitecture(architecture, space.macs(architecture), network, result, last.value))
    return tuple(sorted(found, key=lambda each: -each.validation))


def random_search(
    model: nn.Module,
    train: Examples,
    budget: GivenBudget,
    recipe: Recipe,
    *,
    example_inputs: Batch,
    validation: Examples,
    count: int = 20,
    tolerance: float = _TOLERANCE,
    seed: int = 0,
    **settings: Any,
) -> tuple[TrainedArchitecture, ...]:
    """Train random architectures within a budget; the best validation comes first.

    The best one was chosen on the validation data: judge it on others, or its accuracy is too high.

    Args:
        model: The full network: the teacher, if the recipe uses distillation. It is not changed.
        train: Training examples.
        budget: A limit on MACs.
        recipe: How to train each of them.
        example_inputs: Inputs of the model.
        validation: Examples by which they are compared.
        count: Number of architectures.
        tolerance: How far below the budget their MACs may lie, as a fraction of the full network's.
        seed: Root of all randomness.
        **settings: Further arguments of `scionet.fit`.

    Raises:
        PruneError: As `random_architectures` and `scionet.fit` do.
    """
    space = SearchSpace.of(model, example_inputs)
    candidates = random_architectures(space, budget, count, tolerance=tolerance, seed=seed)
    given = {"example_inputs": example_inputs, "validation": validation, "seed": seed, **settings}
    return train_architectures(model, train, candidates, recipe, **given)
