"""search_architecture: searches the widths and depths of a network, and trains the network that was found."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from scionet.budget.budget import Budget
from scionet.budget.costs import Cost, measure
from scionet.choices.search import ArchitectureSearch
from scionet.errors import BudgetExceeded, InvalidSetting, TrainingError
from scionet.modes import at_work
from scionet.network.calling import Batch
from scionet.network.multiprocess import world
from scionet.search.architecture import Architecture
from scionet.search.derived import derived
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

DISTILLATION = Recipe(learning_rate=0.1, weight_decay=5e-4, teacher_weight=0.9, temperature=4.0)
"""How the found network is trained by default: published are 300 epochs, of which this recipe has ten."""
SEARCHING = Recipe(learning_rate=0.1, weight_decay=5e-4)
"""How the weights of the supernet are trained by default: published are 600 epochs with batches of 256."""
_DEFAULT = ArchitectureSearch()


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """A network whose widths and depths were searched.

    Attributes:
        model: The network that was found, trained.
        architecture: Its widths and depths.
        space: What could be chosen.
        target_macs: MACs that the budget allows.
        full: Cost of the full network of the space.
        found: Cost of the network that was found.
        estimated_macs: Its MACs as the official code estimates them.
        status: What happened, in one sentence.
        trace: What was observed after each epoch of the search: MACs, probabilities, validation.
        search: The result of the search; None if the budget allows the full network.
        training: The result of the training of the network that was found.
        supernet: The supernet, with the weights of the last step; None without a search.
    """

    model: nn.Module
    architecture: Architecture
    space: SearchSpace
    target_macs: float
    full: Cost
    found: Cost
    estimated_macs: int
    status: str
    trace: tuple[Mapping[str, Any], ...]
    search: FitResult | None
    training: FitResult
    supernet: Supernet | None

    def __repr__(self) -> str:
        """The result in one line."""
        return f"SearchResult({self.found.macs / self.full.macs:.1%} of {self.full.macs:,.0f} MACs; {self.status})"


@at_work()
def search_architecture(
    model: nn.Module,
    train: Examples,
    budget: Budget | str | Mapping[str, object],
    *,
    method: ArchitectureSearch = _DEFAULT,
    recipe: Recipe = SEARCHING,
    training: Recipe = DISTILLATION,
    example_inputs: Batch,
    validation: Examples | None = None,
    state_file: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    execution: Execution | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> SearchResult:
    """Search the widths and depths of a network within a budget of MACs, and train the network that was found.

    With a `state_file`, an interrupted call goes on where it was, and ends with the same network.

    Args:
        model: The full network: a chain of convolutions with BatchNorm, or a network of scionet's residual blocks. It
            is the teacher, if `training` uses distillation, and then must be trained. It is not changed.
        train: Training examples: a map-style data set of pairs of an input and a label, as for `scionet.fit`. Part of
            them trains weights during the search, the others widths and depths; all train what was found.
        budget: A limit on MACs, such as ``"macs<=50%"``. Percentages are of the full network of the search space, whose
            strided shortcuts have convolutions.
        method: The settings of the search.
        recipe: How the weights of the supernet are trained during the search.
        training: How the network that was found is trained; by default with distillation from `model`. With
            ``teacher_weight=0`` without.
        example_inputs: Inputs of the model.
        validation: Examples on which the accuracy is measured after every epoch, of the search and of the training.
        state_file: A ``.safetensors`` file for the state of the search. That of the training is in a file beside it,
            whose name ends in ``.found.safetensors``.
        callbacks: Further callbacks of the search, which run after its own.
        execution: How trainings are done: workers, precision, memory, logging.
        seed: Root of all randomness.
        progress: Show progress bars on standard error; by default where that is a terminal.

    Raises:
        UnsupportedModel: If the network cannot be searched; the error says which can.
        UnreachableBudget: If even the cheapest architecture exceeds the budget; this is found before the search.
        InvalidSetting: If the budget limits something else than MACs, a setting is not allowed, or the best validation
            is to be chosen and there are no validation data.
        BudgetExceeded: If the search ended, and no epoch had an architecture within the budget.
        TrainingError: As `scionet.fit` does; if a class has too few examples to be divided.
        CheckpointError: If the state is of another search: what differs is listed.
    """
    _refuse_unfit(method, recipe, validation)
    space = SearchSpace.of(model, example_inputs)
    target, full = space.target(budget), space.macs(space.full)
    term = CostTerm(target, method.tolerance_below * full, method.tolerance_above * full)
    shared = {"validation": validation, "execution": execution, "progress": progress}
    searched, steps, supernet = None, None, None
    if target < full:
        supernet = Supernet(model, space, method.candidates, root(seed, "supernet"))
        for_weights, for_choices = divided(train, method.weights_share, seed)
        steps = ArchitectureSteps(method, term, for_choices, recipe, 0 if execution is None else execution.workers)
        named = {"examples of widths and depths": identity.of_examples(for_choices, pairs)}
        of_search = {"state_file": state_file, "callbacks": [steps, *callbacks], "depends_on": named, "seed": seed}
        searched = fit(supernet, for_weights, recipe, **of_search, **shared)
    architecture, status = (space.full, "the budget allows it") if steps is None else _chosen(steps, method, space)
    start = supernet if method.inherit else None
    found, trained = train_architecture(
        model, architecture, train, training, supernet=start, state_file=_beside(state_file), seed=seed, **shared
    )
    return SearchResult(
        model=found,
        architecture=architecture,
        space=space,
        target_macs=target,
        full=Cost(full, measure(derived(model, space.full), example_inputs).params),
        found=measure(found, example_inputs),
        estimated_macs=space.estimated_macs(architecture),
        status=status,
        trace=() if steps is None else tuple(steps.trace),
        search=searched,
        training=trained,
        supernet=supernet,
    )


def train_architecture(
    model: nn.Module,
    architecture: Architecture,
    train: Examples,
    recipe: Recipe,
    *,
    supernet: Supernet | None = None,
    seed: int = 0,
    **settings: Any,
) -> tuple[nn.Module, FitResult]:
    """Build the network of an architecture and train it, with `model` as the teacher if the recipe needs one.

    Args:
        model: The full network, which is not changed.
        architecture: Widths and depths.
        train: Training examples.
        recipe: How to train.
        supernet: A supernet whose weights it starts from, instead of new ones.
        seed: Root of all randomness.
        **settings: Further arguments of `scionet.fit`.

    Returns:
        The network, and the result of its training.
    """
    found = derived(model, architecture, root(seed, "found"), supernet)
    teacher = model if recipe.needs_teacher else None
    return found, fit(found, train, recipe, teacher=teacher, seed=seed, **settings)


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


def _chosen(steps: ArchitectureSteps, method: ArchitectureSearch, space: SearchSpace) -> tuple[Architecture, str]:
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


def _beside(state_file: str | Path | None) -> Path | None:
    """The state file of the training, beside that of the search."""
    return None if state_file is None else Path(state_file).with_suffix(".found.safetensors")


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
