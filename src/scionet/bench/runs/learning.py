"""Trains a network at every learning rate of a sweep, and keeps the one with the best validation accuracy."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from scionet.bench.records.ledger import PASSES, STAGES, Payment
from scionet.bench.records.record import Tried
from scionet.bench.runs.data import RunData
from scionet.training.accuracy import Accuracy
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.execution import Execution
from scionet.training.fit import FitResult, fit
from scionet.training.recipes import Recipe
from scionet.training.state import Epoch, TrainingState, best_epoch


@dataclass(frozen=True, eq=False)
class Training:
    """A training at one learning rate.

    Attributes:
        model: The trained network.
        state: State of the training.
        tried: The learning rate and the validation accuracy.
        payments: Its cost.
    """

    model: nn.Module
    state: TrainingState
    tried: Tried
    payments: tuple[Payment, ...]


@dataclass(frozen=True, eq=False)
class Learnt:
    """The result of a sweep.

    Attributes:
        model: The network of the chosen learning rate.
        sweep: Every learning rate with its validation accuracy.
        payments: Costs of the chosen training, of the others, and of validation.
    """

    model: nn.Module
    sweep: tuple[Tried, ...]
    payments: tuple[Payment, ...]


@dataclass(frozen=True, eq=False)
class Trainer:
    """What all trainings of a run share.

    Attributes:
        material: The data.
        macs: MACs of a forward pass of one example.
        execution: How trainings are computed.
    """

    material: RunData
    macs: float
    execution: Execution

    def begin(self, model: nn.Module, recipe: Recipe, seed: int) -> TrainingState:
        """Return the state of a training before its first step."""
        return self._fit(model, recipe, seed, until=0).state

    def train(
        self,
        model: nn.Module,
        recipe: Recipe,
        seed: int,
        path: Path,
        *,
        start: TrainingState | None = None,
        until: int | None = None,
        callbacks: tuple[Callback, ...] = (),
    ) -> Training:
        """Train a network in place. An interrupted training is resumed, and a finished one is not repeated.

        Args:
            model: The network.
            recipe: How to train.
            seed: Root of all randomness of the training.
            path: File of the training's state; its folder is created if it does not exist.
            start: State to start from; None starts at the first step.
            until: The epoch after which to pause, 1 or more.
            callbacks: Callbacks of the training. They start from the beginning even if `start` is given.

        Raises:
            TrainingError: If the training fails.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        timer = StepTimer()
        first = None if start is None else start.with_new_callbacks()
        result = self._fit(
            model, recipe, seed, state_file=path, start=first, until=until, callbacks=(timer, *callbacks)
        )
        payments = self._payments(recipe, result, start, timer.seconds)
        return Training(model, result.state, _tried(recipe, result), payments)

    def _fit(self, model: nn.Module, recipe: Recipe, seed: int, **more: Any) -> FitResult:
        data, validation = self.material.training(recipe), self.material.validation
        return fit(model, data, recipe, validation=validation, seed=seed, execution=self.execution, **more)

    def _payments(
        self, recipe: Recipe, result: FitResult, start: TrainingState | None, seconds: float
    ) -> tuple[Payment, Payment]:
        """Costs of the steps after the start, and of validation."""
        step, epochs = (0, 0) if start is None else (start.step, len(start.history))
        images = (result.history[-1].step - step) * recipe.batch_size
        measured = (len(result.history) - epochs) * len(self.material.validation)
        training, measuring = PASSES * self.macs * images, self.macs * measured
        share = training / (training + measuring)
        return (
            Payment("training", images, training, seconds * share),
            Payment("validation", measured, measuring, seconds * (1 - share)),
        )


def learn(
    make: Callable[[], nn.Module],
    recipe: Recipe,
    factors: Sequence[float],
    trainer: Trainer,
    seed: int,
    folder: Path,
    callbacks: tuple[Callback, ...] = (),
) -> Learnt:
    """Train once at every learning rate. An interrupted training is resumed.

    Args:
        make: Makes the network with its initial weights, the same each time.
        recipe: How to train.
        factors: Factors on its learning rate.
        trainer: What all trainings share.
        seed: Root of all randomness of the training.
        folder: Folder for the states of the trainings.
        callbacks: Callbacks of every training.

    Raises:
        TrainingError: If a training fails.
    """
    return choose(
        [
            trainer.train(make(), at_rate(recipe, factor), seed, state_of_rate(folder, factor), callbacks=callbacks)
            for factor in sorted(factors)
        ]
    )


def state_of_rate(folder: Path, factor: float) -> Path:
    """The file for the state of a training at one learning rate of a sweep."""
    return folder / f"rate-{factor:g}.safetensors"


def at_rate(recipe: Recipe, factor: float) -> Recipe:
    """A recipe with its learning rate multiplied by a factor."""
    return replace(recipe, learning_rate=recipe.learning_rate * factor)


def choose(trainings: Sequence[Training]) -> Learnt:
    """Choose the best validation accuracy, the first among equals. The other trainings are paid as tuning."""
    best = max(trainings, key=lambda training: training.tried.correct)
    paid = [
        payment if training is best or payment.stage == "validation" else replace(payment, stage="tuning")
        for training in trainings
        for payment in training.payments
    ]
    ledger = sorted(paid, key=lambda payment: STAGES.index(payment.stage))
    return Learnt(best.model, tuple(training.tried for training in trainings), tuple(ledger))


def _tried(recipe: Recipe, result: FitResult) -> Tried:
    """The validation accuracy of the weights that the training ended with."""
    last = result.history[best_epoch(result.history) - 1 if recipe.patience is not None else -1]
    if not isinstance(last.validation, Accuracy):
        raise AssertionError("fit measures every epoch on the validation data")
    return Tried(recipe.learning_rate, recipe.epochs, last.validation.correct, last.validation.seen)


@dataclass(eq=False)
class StepTimer(Callback):
    """Sums the time of a training over interruptions. Steps that an interruption lost are not counted."""

    seconds: float = field(default=0.0, init=False)
    _since: float = field(default=0.0, init=False)

    def on_start(self, context: TrainingContext) -> None:
        """Time runs."""
        self._since = time.perf_counter()

    def after_step(self, context: TrainingContext) -> None:
        """A step is done."""
        self._add()

    def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
        """An epoch is done, with its validation."""
        self._add()

    def _add(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
