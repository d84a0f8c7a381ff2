"""One training from its beginning, or from where it was broken off, to its end."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scionet.errors import InvalidSetting, TrainingError
from scionet.files.atomic import clear_leftovers
from scionet.network.multiprocess import summed, world
from scionet.progress import Progress
from scionet.seeds import root
from scionet.training.accuracy import Accuracy, accuracy
from scionet.training.averages import copies, exchanged, overwrite, tensors_of_network
from scionet.training.callbacks import Callback
from scionet.training.execution import Execution
from scionet.training.learner import Learner
from scionet.training.loading import Examples, Pair, load
from scionet.training.order import Order
from scionet.training.randomness import reseed
from scionet.training.state import Epoch, TrainingState, best_epoch, load_state, refuse_differences, save_state

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

LOOK_STEPS = 50
"""Losses are looked at together after so many steps: each look waits for the device."""


class TrainingRun:
    """One training.

    Attributes:
        step: Steps done.
        history: Epochs done.
    """

    def __init__(
        self,
        learner: Learner,
        execution: Execution,
        order: Order,
        data: Examples,
        validation: Examples | None,
        settings: Mapping[str, Any],
        callbacks: Sequence[Callback],
        tell: Progress,
        state_file: str | Path | None,
    ) -> None:
        self._learner, self._execution, self._order = learner, execution, order
        self._data, self._validation = data, validation
        self._settings, self._callbacks, self._tell = settings, callbacks, tell
        self._file = None if state_file is None else Path(state_file)
        self._rank, self._size = world()
        self._seeds = {use: root(order.seed, use) for use in ("steps", "validation")}
        self._total = learner.recipe.steps(order.steps_per_epoch)
        self._losses, self._recent = 0.0, list[Tensor]()
        self._best: dict[str, Tensor] = {}
        self._trackers: list[GeneralTracker] = []
        self.step, self.history = 0, list[Epoch]()

    def begin(self, start: TrainingState | None) -> None:
        """Go to where the training stands: what the file says, else `start`, else the beginning.

        Raises:
            CheckpointError: If that is of another network or other settings, or the file cannot be read or written.
            InvalidSetting: If the weights are split among processes, which no single file can hold.
        """
        self._begin_log()
        found = self._found()
        state = start if self._file is None or not found else load_state(self._file)
        if state is not None:
            source = str(self._file) if found else "start"
            advice = f"give those, or delete {source} to begin anew" if found else "give those"
            refuse_differences(state.settings, self._settings, advice)
            self._learner.restore(state, source)
            self.step, self.history, self._losses = state.step, list(state.history), state.losses
            self._best = copies(state.best, self._learner.accelerator.device)
        if self._file is not None and not found:
            self._save()  # now, rather than after the first long work, it turns out whether that is possible

    def go(self, until: int | None) -> None:
        """Train to the end, or to that of epoch `until`.

        Raises:
            TrainingError: If the loss is NaN or infinite, or data do not fit.
        """
        per_epoch = self._order.steps_per_epoch
        stop = self._total if until is None else min(self._total, until * per_epoch)
        self._tell("train", self.step, self._total)
        if self._exhausted or self.step >= stop:
            return
        for parts in self._batches(stop):
            self._learn(parts)
            if self.step % per_epoch == 0 or self.step == self._total:
                self._end_epoch()
            elif self.step % self._execution.save_steps == 0:
                self._save()
            self._tell("train", self.step, self._total)
            if self._exhausted:
                return

    def end(self) -> TrainingState:
        """Leave the network with the weights that the recipe promises.

        Returns:
            Where the training stands.
        """
        state = self._state()
        average = self._learner.average
        if self._best:
            overwrite(self._learner.network, self._best)
        elif average is not None:
            overwrite(self._learner.network, average.tensors)
        return state

    def close(self) -> None:
        """Let go of hooks, and finish the trackers that were begun here."""
        self._learner.close()
        for tracker in self._trackers:
            tracker.finish()
        if self._trackers:
            self._learner.accelerator.trackers = []

    @property
    def status(self) -> str:
        """Whether the training is finished, for a person to read."""
        reached = f"{self.step:,} of {self._total:,} steps, epoch {len(self.history)}"
        if self.step == self._total:
            return f"finished: {reached}"
        if self._exhausted:
            return f"stopped early: {reached}, best in epoch {best_epoch(self.history)}"
        return f"paused: {reached}"

    @property
    def _exhausted(self) -> bool:
        """Whether patience is."""
        patience = self._learner.recipe.patience
        return patience is not None and len(self.history) - best_epoch(self.history) >= patience

    def _batches(self, stop: int) -> Iterator[list[Pair]]:
        """This process' share of each step's batch, in parts."""
        parts = self._execution.parts
        tickets = self._order.parts(self.step, stop, parts, self._rank, self._size)
        pin = self._learner.accelerator.device.type == "cuda"
        read = load(self._data, tickets, self._execution.workers, pin)
        while batch := list(islice(read, parts)):
            yield batch

    def _learn(self, parts: Sequence[Pair]) -> None:
        """One step."""
        reseed(self._seeds["steps"] + self.step * self._size + self._rank, self._learner.accelerator.device)
        rate = self._learner.recipe.rate(self.step, self._order.steps_per_epoch)
        self.step += 1
        self._recent.append(self._learner.step(self.step, rate, parts, self._callbacks))
        if self.step % LOOK_STEPS == 0:
            self._look()

    def _look(self) -> None:
        """Look at the losses since the last look.

        Raises:
            TrainingError: If one is NaN or infinite.
        """
        if not self._recent:
            return
        losses = (summed(torch.stack(self._recent)) / self._size).tolist()
        first = self.step - len(losses) + 1
        for number, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                raise TrainingError(self._explained(number))
            self._losses += loss
        self._recent.clear()
        self._learner.accelerator.log({"loss": losses[-1], "learning_rate": self._rate_now}, step=self.step)

    def _explained(self, step: int) -> str:
        recipe = self._learner.recipe
        kept = f"; the last state is in {self._file}" if self._file is not None else ""
        return (
            f"the loss is NaN or infinite at step {step:,} of {self._total:,}; lower learning_rate "
            f"({recipe.learning_rate}), raise warmup_epochs ({recipe.warmup_epochs}), set clip_norm to 1 (it is "
            f"{recipe.clip_norm}), or look for NaN in the data{kept}"
        )

    @property
    def _rate_now(self) -> float:
        return float(self._learner.optimizer.param_groups[0]["lr"])

    def _end_epoch(self) -> None:
        """Measure, write down, tell, and save what was made of it."""
        self._look()
        steps = self.step - (self.history[-1].step if self.history else 0)
        validation = self._validated()
        epoch = Epoch(len(self.history) + 1, self.step, self._losses / steps, self._rate_now, validation)
        self.history.append(epoch)
        self._losses = 0.0
        if self._learner.recipe.patience is not None and best_epoch(self.history) == epoch.number:
            self._best = copies(self._weights)
        if validation is not None:
            self._learner.accelerator.log({"validation_accuracy": validation.rate}, step=self.step)
        for callback in self._callbacks:
            callback.after_epoch(self._learner.network, epoch)
        self._save()

    @property
    def _weights(self) -> Mapping[str, Tensor]:
        """What the network would be left with now."""
        average = self._learner.average
        return tensors_of_network(self._learner.network) if average is None else average.tensors

    def _validated(self) -> Accuracy | None:
        """Accuracy on the validation data, of the averaged weights if there are any."""
        if self._validation is None:
            return None
        own = [(i, self._seeds["validation"] + i) for i in range(self._rank, len(self._validation), self._size)]
        length = -(-self._order.batch_size // (self._execution.parts * self._size))
        parts = [own[place : place + length] for place in range(0, len(own), length)]
        average = self._learner.average
        with nullcontext() if average is None else exchanged(self._learner.network, average.tensors):
            return accuracy(self._learner.shell, load(self._validation, parts, self._execution.workers))

    def _state(self) -> TrainingState:
        self._look()
        return TrainingState(
            step=self.step,
            **self._learner.captured(),
            best=copies(self._best, "cpu"),
            history=tuple(self.history),
            losses=self._losses,
            settings=self._settings,
        )

    def _save(self) -> None:
        if self._file is None:
            return
        self._look()  # in every process: what is NaN is not saved
        if self._rank == 0:
            save_state(self._file, self._state())

    def _found(self) -> bool:
        """Whether there is a file to go on from.

        Raises:
            InvalidSetting: If only some processes see it, or it could not hold the weights.
        """
        if self._file is None:
            return False
        machine = self._learner.accelerator
        if machine.distributed_type.value in ("FSDP", "DEEPSPEED"):
            raise InvalidSetting("weights that are split among processes are not saved; leave out state_file")
        count = int(summed(torch.tensor(int(self._file.exists()), device=machine.device)))
        if 0 < count < self._size:
            raise InvalidSetting(f"{count} of {self._size} processes see {self._file}; give a file that all see")
        if self._rank == 0:
            clear_leftovers(self._file)
        return count > 0

    def _begin_log(self) -> None:
        machine = self._learner.accelerator
        if machine.log_with and not machine.trackers:
            machine.init_trackers("scionet")
            self._trackers = machine.trackers
