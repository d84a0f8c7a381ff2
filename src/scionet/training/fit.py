"""`fit`: train a network in one process or several. An interrupted training can be resumed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from scionet.errors import CheckpointError, TrainingError
from scionet.files.json_dataclasses import plain
from scionet.files.locks import held
from scionet.modes import at_work
from scionet.network.guard import refuse_unready, untouched
from scionet.network.multiprocess import summed, world
from scionet.progress import bars_where_wanted
from scionet.training import identity
from scionet.training.callback_list import CallbackList
from scionet.training.callback_state import described
from scionet.training.callbacks import Callback
from scionet.training.execution import Execution, accelerator_for
from scionet.training.given_loss import Loss
from scionet.training.l1_penalty import L1Penalty
from scionet.training.learner import Learner
from scionet.training.loading import Examples
from scionet.training.order import Order
from scionet.training.randomness import randomness_kept
from scionet.training.recipes import Recipe
from scionet.training.run import TrainingRun
from scionet.training.state import Epoch, TrainingState
from scionet.training.training_data import TrainingData
from scionet.training.validation import Measure

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, eq=False, repr=False)
class FitResult:
    """The result of a training.

    Attributes:
        history: The result of each epoch.
        status: Whether the training is finished, stopped early or paused.
        state: Its state, from which `fit` can resume; tensors are on the CPU.
    """

    history: tuple[Epoch, ...]
    status: str
    state: TrainingState

    def __repr__(self) -> str:
        """The result in one line."""
        last = self.history[-1] if self.history else None
        validation = "" if last is None or last.validation is None else f", validation {last.validation}"
        loss = "" if last is None else f", loss {last.loss:.4g}"
        return f"FitResult({self.status}, {len(self.history)} epochs{loss}{validation})"


@at_work()
def fit(
    model: nn.Module,
    data: Examples,
    recipe: Recipe | None = None,
    *,
    loss: Loss | None = None,
    validation: Examples | None = None,
    validation_measure: Measure | None = None,
    teacher: nn.Module | None = None,
    seed: int = 0,
    state_file: str | Path | None = None,
    start: TrainingState | None = None,
    until: int | None = None,
    execution: Execution | None = None,
    optimizer: Optimizer | None = None,
    callbacks: Sequence[Callback] = (),
    depends_on: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    accelerator: "Accelerator | None" = None,
) -> FitResult:
    """Train a network, in place; without `loss`, a classifier.

    The seed and the number of a step determine its examples and all its random numbers. With a `state_file`, an
    interrupted training resumes when `fit` is called again, and ends with the weights of an uninterrupted one. They
    are equal bit for bit on deterministic hardware, such as one thread of a CPU.

    Start `fit` by `accelerate launch` or torchrun to train in several processes; `batch_size` is the total of all.

    Args:
        model: The network; without `loss` it returns logits ``(batch, classes)``. Afterwards it is on the device on
            which it was trained. It has the weights of the last step; with `average_decay` their average; with
            `patience` the weights of the best epoch.
        data: Training examples: a map-style data set of pairs of an input and a label (a whole number from 0). With
            `loss`, of whatever `torch.utils.data.default_collate` makes batches of.
        recipe: How to train; by default a fine-tuning of ten epochs.
        loss: A function of the network's outputs and the batch, which returns a scalar: the mean over the batch. Or
            ``"model"`` for the loss that the network returns as attribute or key ``loss``. By default cross-entropy
            with the recipe's label smoothing and distillation. The network gets a tensor or a mapping as it is, and
            the first entry of a tuple; for ``"model"`` all entries, as arguments. Tensors of the batch are on the
            network's device, floating-point ones in its type.
        validation: Examples that are measured after every epoch. They decide when to stop, so they must be neither
            training nor test data.
        validation_measure: ``"accuracy"``, for logits and pairs as above, or ``"loss"``, the mean loss without
            penalties. By default the accuracy; with `loss` the mean loss.
        teacher: The teacher, if the recipe uses distillation. It is left as it was, where it was.
        seed: Seed of all random numbers.
        state_file: A ``.safetensors`` file for the state of the training, written after every epoch and every
            `save_steps` steps, completely or not at all. If it exists, training resumes from it.
        start: The state to start from, if there is no `state_file` yet: an earlier `FitResult.state`, perhaps after
            `cut_state`.
        until: Epoch of the recipe after which to pause.
        execution: How the work is done: workers, precision, memory, logging.
        optimizer: An optimiser to use instead of the recipe's; the schedule multiplies the learning rates of its
            groups.
        callbacks: Code that runs at fixed points of every step and epoch. Its state is part of the training's state.
        depends_on: What else identifies the training, by name, such as the plan that the network was cut to: plain
            values, tensors, and collections of these. A training goes on only if they are the same.
        progress: Show a progress bar on standard error; by default where that is a terminal.
        accelerator: An Accelerator to use, for what `execution` does not cover (FSDP, DeepSpeed, arguments of DDP). If
            this process has created one, give it.

    Raises:
        TrainingError: If the data are empty or do not fit, a loss is NaN, the optimiser belongs to another network, or
            the state is of a training with other callbacks.
        CheckpointError: If the state is of another training: what differs is listed; if the file is damaged, cannot be
            written, or another training is writing it.
        InvalidSetting: If a setting is out of range or not available here, or settings exclude each other.
        MissingExtra: If Accelerate is not installed.
    """
    recipe, execution = recipe or Recipe(), execution or Execution()
    given = TrainingData(data, validation, loss, validation_measure)
    order = Order(len(data), recipe.batch_size, seed)
    if recipe.patience is not None and validation is None:
        raise TrainingError(
            "patience needs validation data; give validation=, examples that are neither training nor test data"
        )
    listed = CallbackList([*callbacks, *([L1Penalty(recipe.l1_weight)] if recipe.l1_weight else [])])
    accelerator = accelerator or accelerator_for(execution)
    wanted = progress if world()[0] == 0 else False
    refuse_unready(model)
    with (
        randomness_kept(accelerator.device),
        untouched(*([] if teacher is None else [teacher]), apart_from=model),
        _modes(model, teacher),
        bars_where_wanted(wanted) as report_progress,
        _alone(state_file, accelerator.device),
    ):
        settings = {
            "recipe": plain(recipe),
            "schedule": identity.of_schedule(recipe, order.steps_per_epoch),
            "seed": seed,
            "precision": accelerator.mixed_precision,
            "optimiser": None if optimizer is None else identity.of_optimiser(optimizer),
            "teacher": None if teacher is None else identity.of_teacher(teacher),
            **given.identity(),
            "depends_on": described(depends_on or {}, "depends_on"),
        }
        origin = {"network": identity.of_network(model), **identity.of_beginning(model, optimizer)}
        learner = Learner(model, recipe, execution, accelerator, loss, teacher, optimizer)
        origin["parameters"] = identity.of_parameters(model, learner.optimizer)
        run = TrainingRun(learner, execution, order, given, settings, origin, listed, report_progress, state_file)
        try:
            run.begin(start)
            run.go(until)
            return FitResult(tuple(run.history), run.status, run.end())
        finally:
            run.close()


@contextmanager
def _alone(state_file: str | Path | None, device: torch.device) -> Iterator[None]:
    """Hold the lock of a state file, in the first process; all processes are refused together.

    Raises:
        CheckpointError: If another training holds it, or it cannot be made.
    """
    problem: CheckpointError | None = None
    with ExitStack() as stack:
        if state_file is not None and world()[0] == 0:
            try:
                stack.enter_context(held(state_file, "a training"))
            except CheckpointError as error:
                problem = error
        if state_file is not None and int(summed(torch.tensor(int(problem is not None), device=device))):
            raise problem or CheckpointError(f"the first process cannot use {state_file}; see its error")
        yield


@contextmanager
def _modes(model: nn.Module, teacher: nn.Module | None) -> Iterator[None]:
    """Put the model into train mode and the teacher into eval mode for the duration of the block."""
    networks = [model] if teacher is None else [model, teacher]
    before = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.train(network is model)
    try:
        yield
    finally:
        for module, flag in before.items():
            module.training = flag
