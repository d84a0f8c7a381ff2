"""find_architecture: searches widths and depths, without training the network that they give."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from scionet.budget.budget import Budget
from scionet.choices.search import ArchitectureSearch
from scionet.errors import BudgetExceeded, InvalidSetting, TrainingError
from scionet.network.calling import Batch
from scionet.network.multiprocess import world
from scionet.search.architecture import Architecture
from scionet.search.expected_cost import CostTerm
from scionet.search.space import SearchSpace
from scionet.search.steps import ArchitectureSteps
from scionet.search.supernet import Supernet
from scionet.seeds import root, seeded
from scionet.training import identity
from scionet.training.callbacks import Callback
from scionet.training.execution import Execution
from scionet.training.fit import FitResult, fit
from scionet.training.loading import Examples, pairs
from scionet.training.randomness import randomness_kept
from scionet.training.recipes import Recipe


@dataclass(frozen=True, eq=False)
class Found:
    """What a search chose.

    Attributes:
        architecture: Widths and depths.
        space: What could be chosen.
        target_macs: MACs that the budget allows.
        status: What happened, in one sentence.
        trace: What was observed after each epoch.
        search: The result of the search; None if the budget allows the full network.
        supernet: The supernet, with the weights of the last step; None without a search.
    """

    architecture: Architecture
    space: SearchSpace
    target_macs: float
    status: str
    trace: tuple[Mapping[str, Any], ...] = ()
    search: FitResult | None = None
    supernet: Supernet | None = None


def find_architecture(
    model: nn.Module,
    train: Examples,
    budget: Budget | str | Mapping[str, object],
    *,
    method: ArchitectureSearch,
    recipe: Recipe,
    example_inputs: Batch,
    validation: Examples | None = None,
    state_file: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    execution: Execution | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Found:
    """Search widths and depths within a budget of MACs; the arguments are those of `search_architecture`.

    Raises:
        PruneError: As `search_architecture` does.
    """
    _refuse_unfit(method, recipe, validation)
    space = SearchSpace.of(model, example_inputs)
    target, full = space.target(budget), space.macs(space.full)
    if target >= full:
        return Found(space.full, space, target, "the budget allows it")
    term = CostTerm(target, method.tolerance_below * full, method.tolerance_above * full)
    supernet = Supernet(model, space, method.candidates, root(seed, "supernet"))
    for_weights, for_choices = divided(train, method.weights_share, seed)
    steps = ArchitectureSteps(method, term, for_choices, recipe, 0 if execution is None else execution.workers)
    result = fit(
        supernet,
        for_weights,
        recipe,
        validation=validation,
        state_file=state_file,
        callbacks=[steps, *callbacks],
        depends_on={"examples of widths and depths": identity.of_examples(for_choices, pairs)},
        execution=execution,
        seed=seed,
        progress=progress,
    )
    architecture, status = _chosen(steps, method)
    return Found(architecture, space, target, status, tuple(steps.trace), result, supernet)


def divided(train: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Divide training examples at random, each class in the same proportion.

    Args:
        train: The examples, all of which are read once for their labels.
        share: Fraction of the first part.
        seed: Seed of the division.

    Raises:
        TrainingError: If a class has so few examples that one part would have none of it.
    """
    classes: dict[int, list[int]] = defaultdict(list)
    with randomness_kept(torch.device("cpu")):
        for index in range(len(train)):
            classes[int(train[index][1])].append(index)
    parts: tuple[list[int], list[int]] = ([], [])
    for label, members in sorted(classes.items()):
        count = round(share * len(members))
        if not 0 < count < len(members):
            raise TrainingError(
                f"class {label} has {len(members)} training examples, too few for the two parts of a search with "
                f"weights_share {share:g}; give more examples"
            )
        order = seeded(seed)("divided", label).permutation(len(members)).tolist()
        parts[0].extend(members[place] for place in order[:count])
        parts[1].extend(members[place] for place in order[count:])
    first, second = (Subset(train, sorted(part)) for part in parts)  # type: ignore[arg-type]
    return first, second


def _chosen(steps: ArchitectureSteps, method: ArchitectureSearch) -> tuple[Architecture, str]:
    """The architecture that the search ends with, and what there is to say.

    Raises:
        BudgetExceeded: If none is within the budget.
    """
    trace, term = steps.trace, steps.term
    cheap = [row for row in trace if row["macs"] <= term.target]
    within = [row for row in cheap if term.met(row["macs"])]
    if not cheap:
        raise BudgetExceeded(
            f"after {len(trace)} epochs the most probable architecture has {trace[-1]['macs']:,} MACs, the budget "
            f"allows {term.target:,.0f}; search for more epochs, or raise learning_rate ({method.learning_rate:g}) or "
            f"cost_weight ({method.cost_weight:g}) of ArchitectureSearch"
        )
    if not within:
        row = max(cheap, key=lambda each: (each["macs"], each["epoch"]))
        note = "; warning: no epoch was within the tolerance, this is the most expensive one below it"
    else:
        row = _last(within) if method.choose == "last" else _best(within)
        note = "" if row is trace[-1] else "; the architecture of the last epoch was not chosen"
    found = Architecture(tuple(row["xchannels"]), tuple(row["xblocks"]))
    return found, f"that of epoch {row['epoch']} of {len(trace)}{note}"


def _last(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return rows[-1]


def _best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return max(rows, key=lambda row: (row["validation"], -row["epoch"]))


def _refuse_unfit(method: ArchitectureSearch, recipe: Recipe, validation: Examples | None) -> None:
    """Refuse settings that a search has no use for.

    Raises:
        InvalidSetting: If there is one.
    """
    if world()[1] > 1:
        raise InvalidSetting("a search runs in one process; start it without accelerate launch or torchrun")
    if method.choose == "best" and validation is None:
        raise InvalidSetting(
            "choose='best' compares epochs by their validation; give validation=, examples that are neither training "
            "nor test data, or choose='last'"
        )
    if recipe.average_decay is not None or recipe.patience is not None or recipe.needs_teacher:
        raise InvalidSetting(
            "the supernet's weights are those of the last step, and it learns without a teacher; leave out "
            f"average_decay ({recipe.average_decay}), patience ({recipe.patience}), teacher_weight "
            f"({recipe.teacher_weight:g}) and features of recipe=, or give them in training="
        )
