"""Training a network: one loop, for one process or many, that may be killed at any moment and goes on where it was."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from scionet.errors import TrainingError
from scionet.network.calling import hash_tensors, state_of, tensors_of
from scionet.network.multiprocess import world
from scionet.progress import bars, silent
from scionet.training.callbacks import Callback
from scionet.training.execution import Execution, accelerator_for
from scionet.training.learner import Learner
from scionet.training.loading import Examples, load
from scionet.training.order import Order
from scionet.training.randomness import randomness_kept
from scionet.training.recipes import Recipe
from scionet.training.run import TrainingRun
from scionet.training.state import Epoch, TrainingState

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, eq=False)
class FitResult:
    """What came of a training.

    Attributes:
        history: One entry for each epoch.
        status: Whether it is finished, stopped early or paused.
        state: Where it stands, from which `fit` can go on; tensors are on the processor.
    """

    history: tuple[Epoch, ...]
    status: str
    state: TrainingState = field(repr=False)


def fit(
    model: nn.Module,
    data: Examples,
    recipe: Recipe | None = None,
    *,
    validation: Examples | None = None,
    teacher: nn.Module | None = None,
    seed: int = 0,
    state_file: str | Path | None = None,
    start: TrainingState | None = None,
    until: int | None = None,
    execution: Execution | None = None,
    optimizer: Optimizer | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    accelerator: "Accelerator | None" = None,
) -> FitResult:
    """Train a classifier, in place.

    Every step's examples, and all that is left to chance in it, follow from the seed and the number of the step. With a
    `state_file`, a training that was killed goes on when it is called again, and ends with the weights of an unbroken
    one (bit for bit where the hardware computes alike twice: on one thread of a processor).

    Started by `accelerate launch` or torchrun, several processes train together; `batch_size` is that of all of them.

    Args:
        model: Gives logits ``(batch, classes)``. In the end it is on the device on which it was trained, with the
            weights of the last step; with `average_decay` their average; with `patience` those of the best epoch.
        data: Examples to learn from: a map-style data set of pairs of input and label (a whole number from 0).
        recipe: How to train; a fine-tuning of ten epochs by default.
        validation: Examples to measure the accuracy on after every epoch. They decide when to stop, so they must be
            neither training nor test data.
        teacher: A network to imitate, if the recipe says so.
        seed: Root of all randomness.
        state_file: A ``.safetensors`` file that holds where the training stands, written after every epoch and every
            `save_steps`, whole or not at all. If it exists, training goes on from there.
        start: Where to go on, if there is no `state_file` yet: an earlier `FitResult.state`, perhaps after `cut_state`.
        until: Pause after so many epochs of the recipe, to go on later.
        execution: How the work is done: workers, precision, memory, what is logged.
        optimizer: One of your own instead of the recipe's; learning rates are those of its groups times the schedule.
        callbacks: Told of every step and epoch.
        progress: Whether to show a progress bar on standard error.
        accelerator: One of your own, for what `execution` does not say (FSDP, DeepSpeed, arguments of DDP). Where there
            is one in this process, give it.

    Raises:
        TrainingError: If the data are empty or do not fit, the loss is NaN, or the optimiser is another network's.
        CheckpointError: If the state is of another network or other settings, which are listed; if it is damaged, or
            cannot be written.
        InvalidSetting: If a setting is out of range or not available here.
        MissingExtra: If Accelerate is not installed.
    """
    recipe, execution = recipe or Recipe(), execution or Execution()
    order = Order(_count(data, "training"), recipe.batch_size, seed)
    _refuse_validation(recipe, data, validation)
    machine = accelerator or accelerator_for(execution)
    shown = progress and world()[0] == 0
    with (
        randomness_kept(machine.device),
        _modes(model, teacher),
        bars() if shown else nullcontext(silent) as tell,
    ):
        settings = {
            **json.loads(json.dumps({"recipe": asdict(recipe)})),
            "seed": seed,
            "precision": machine.mixed_precision,
            "optimiser": None if optimizer is None else type(optimizer).__name__,
            "teacher": None if teacher is None else hash_tensors(state_of(teacher)),
            "examples": order.examples,
            "first_example": _print_of_first(data),
            "validation_examples": None if validation is None else _count(validation, "validation"),
        }
        learner = Learner(model, recipe, execution, machine, teacher, optimizer)
        run = TrainingRun(learner, execution, order, data, validation, settings, callbacks, tell, state_file)
        try:
            run.begin(start)
            run.go(until)
            return FitResult(tuple(run.history), run.status, run.end())
        finally:
            run.close()


def _count(data: Examples, what: str) -> int:
    """Number of examples.

    Raises:
        TrainingError: If there is none, or it is not known.
    """
    try:
        count = len(data)
    except TypeError:
        count = -1
    if isinstance(data, DataLoader) or count < 0:
        raise TrainingError(
            f"{what} data must be a map-style data set, with len(data) and data[index]; given a {type(data).__name__}. "
            "Give the data set of a loader (loader.dataset): batches and their order are the recipe's"
        )
    if not count:
        raise TrainingError(f"the {what} data are empty; give at least one example")
    return count


def _refuse_validation(recipe: Recipe, data: Examples, validation: Examples | None) -> None:
    """Refuse validation data that are missing or seen.

    Raises:
        TrainingError: If they are needed and not there, or are the training data.
    """
    if recipe.patience is not None and validation is None:
        raise TrainingError("patience needs validation data; give validation=, apart from training and test data")
    if validation is data:
        raise TrainingError(
            "the validation data are the training data; keep some apart (scionet.data.sampling.partition)"
        )


def _print_of_first(data: Examples) -> str:
    """A hash of the first example, by which other data or another preparation are noticed."""
    batch = next(load(data, [[(0, 0)]]))
    return hash_tensors({str(number): tensor for number, tensor in enumerate(tensors_of(batch))})


@contextmanager
def _modes(model: nn.Module, teacher: nn.Module | None) -> Iterator[None]:
    """The model in train mode and the teacher in eval mode meanwhile."""
    networks = [model] if teacher is None else [model, teacher]
    before = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.train(network is model)
    try:
        yield
    finally:
        for module, flag in before.items():
            module.training = flag
