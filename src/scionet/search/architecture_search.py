"""search_architecture: searches the widths and depths of a network, and trains the network that was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from scionet.budget.budget import Budget
from scionet.budget.costs import Cost, measure
from scionet.choices.search import ArchitectureSearch
from scionet.modes import at_work
from scionet.network.calling import Batch
from scionet.search.architecture import Architecture
from scionet.search.derived import derived
from scionet.search.finding import find_architecture
from scionet.search.space import SearchSpace
from scionet.search.supernet import Supernet
from scionet.seeds import root
from scionet.training.callbacks import Callback
from scionet.training.execution import Execution
from scionet.training.fit import FitResult, fit
from scionet.training.loading import Examples
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
    shared: dict[str, Any] = {"validation": validation, "execution": execution, "seed": seed, "progress": progress}
    choice = find_architecture(
        model,
        train,
        budget,
        method=method,
        recipe=recipe,
        example_inputs=example_inputs,
        state_file=state_file,
        callbacks=callbacks,
        **shared,
    )
    space, start = choice.space, choice.supernet if method.inherit else None
    found, trained = train_architecture(
        model, choice.architecture, train, training, supernet=start, state_file=_beside(state_file), **shared
    )
    return SearchResult(
        model=found,
        architecture=choice.architecture,
        space=space,
        target_macs=choice.target_macs,
        full=Cost(space.macs(space.full), measure(derived(model, space.full), example_inputs).params),
        found=measure(found, example_inputs),
        estimated_macs=space.estimated_macs(choice.architecture),
        status=choice.status,
        trace=choice.trace,
        search=choice.search,
        training=trained,
        supernet=choice.supernet,
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


def _beside(state_file: str | Path | None) -> Path | None:
    """The state file of the training, beside that of the search."""
    return None if state_file is None else Path(state_file).with_suffix(".found.safetensors")
