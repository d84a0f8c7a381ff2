"""One training, from its first step or from a saved state to its end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scionet.errors import InvalidSetting
from scionet.files.atomic import clear_leftovers
from scionet.files.safetensors_files import hash_tensors
from scionet.network.multiprocess import summed, world
from scionet.progress import Progress
from scionet.seeds import root
from scionet.training.averages import copies, exchanged, overwrite, tensors_of_network
from scionet.training.callback_list import CallbackList
from scionet.training.context import TrainingContext
from scionet.training.execution import Execution
from scionet.training.identity import hash_memory
from scionet.training.learner import Learner
from scionet.training.order import Order
from scionet.training.randomness import reseed
from scionet.training.state import (
    Epoch,
    TrainingState,
    best_epoch,
    hash_state,
    load_state,
    refuse_differences,
    refuse_inconsistent,
    save_state,
)
from scionet.training.training_data import TrainingData
from scionet.training.training_log import TrainingLog
from scionet.training.validation import Validation


class TrainingRun:
    """One training.

    Attributes:
        step: Steps done.
        history: Results of the epochs done.
    """

    def __init__(
        self,
        learner: Learner,
        execution: Execution,
        order: Order,
        data: TrainingData,
        settings: Mapping[str, Any],
        origin: Mapping[str, Any],
        callbacks: CallbackList,
        report_progress: Progress,
        state_file: str | Path | None,
    ) -> None:
        self._learner, self._execution, self._order = learner, execution, order
        self._data, self._settings, self._origin = data, settings, dict(origin)
        self._callbacks, self._report_progress = callbacks, report_progress
        self._file = None if state_file is None else Path(state_file)
        self._process_index, self._process_count = world()
        self._seeds = {use: root(order.seed, use) for use in ("start", "steps", "validation")}
        self._total = learner.recipe.steps(order.steps_per_epoch)
        self._log = TrainingLog(learner, self._total, self._file)
        self._best: dict[str, Tensor] = {}
        self.step, self.history = 0, list[Epoch]()

    def begin(self, start: TrainingState | None) -> None:
        """Restore the state in the file, else `start`, if there is one; then run the callbacks' `on_start`.

        Raises:
            CheckpointError: If the state is of another network or other settings, or the file cannot be read or
                written.
            InvalidSetting: If the weights are split among processes, which no single file can hold.
            TrainingError: If the callbacks are not those that the training was started with.
        """
        self._log.begin()
        if start is not None:
            self._origin |= {"start": hash_state(start), "weights": None, "optimiser_state": None}
        found = self._found()
        state = start if self._file is None or not found else load_state(self._file)
        if state is not None:
            self._restore(state, found)
        reseed(self._seeds["start"], self._learner.accelerator.device)
        self._callbacks.run("on_start", self._context(len(self.history) + 1))
        if not found:
            self._save()  # what cannot be saved or written is refused before the first step

    def _restore(self, state: TrainingState, from_file: bool) -> None:
        """Go to `state`, if it is of this training."""
        source = str(self._file) if from_file else "start"
        advice = f"give those, or delete {source} to start again" if from_file else "give those"
        self._learner.refuse_other_network(state, source)
        if state.callbacks is not None:
            more = advice if from_file else "give those, or start=state.with_new_callbacks() to let others start"
            self._callbacks.refuse_others(state.callbacks, more)
        before, now = dict(state.settings), dict(self._settings)
        if from_file:
            before, now = {**before, **state.origin}, {**now, **self._origin, **self._of_same_network(state)}
        refuse_differences(before, now, advice)
        refuse_inconsistent(state, source, self._order.steps_per_epoch, self._total)
        self._learner.restore(state, source)
        device = self._learner.accelerator.device
        if state.callbacks is not None:
            self._callbacks.restore(state.callbacks, device)
        if from_file:
            self._origin = dict(state.origin)
        self.step, self.history = state.step, list(state.history)
        self._log.loss, self._log.penalties = state.losses, dict(state.penalties)
        self._best = copies(state.best, device)

    def _of_same_network(self, state: TrainingState) -> dict[str, Any]:
        """The kept hashes of what need not be as it was at the beginning, since it is as this training left it."""
        left = {
            "weights": [hash_tensors(tensors) for tensors in (state.network, state.average, state.best)],
            "optimiser_state": [hash_memory(state.memory)],
        }
        return {key: state.origin.get(key) for key, hashes in left.items() if self._origin[key] in hashes}

    def go(self, until: int | None) -> None:
        """Train to the end, or to the end of epoch `until`.

        Raises:
            TrainingError: If a loss or a penalty is NaN or infinite, or the data do not fit.
        """
        per_epoch = self._order.steps_per_epoch
        stop = self._total if until is None else min(self._total, until * per_epoch)
        self._report_progress("train", self.step, self._total)
        if self._exhausted or self.step >= stop:
            return
        for parts in self._batches(stop):
            self._learn(parts)
            if self.step % per_epoch == 0 or self.step == self._total:
                self._end_epoch()
            elif self.step % self._execution.save_steps == 0:
                self._save()
            self._report_progress("train", self.step, self._total)
            if self._exhausted:
                return

    def end(self) -> TrainingState:
        """Give the network the weights that the recipe promises: the last, averaged or best ones.

        Returns:
            The state of the training.
        """
        state = self._state()
        average = self._learner.average
        if self._best:
            overwrite(self._learner.network, self._best)
        elif average is not None:
            overwrite(self._learner.network, average.tensors)
        return state

    def close(self) -> None:
        """Remove hooks, and finish trackers."""
        self._learner.close()
        self._log.close()

    @property
    def status(self) -> str:
        """Whether the training is finished, as a sentence."""
        reached = f"{self.step:,} of {self._total:,} steps, epoch {len(self.history)}"
        if self.step == self._total:
            return f"finished: {reached}"
        if self._exhausted:
            return f"stopped early: {reached}, best in epoch {best_epoch(self.history)}"
        return f"paused: {reached}"

    @property
    def _exhausted(self) -> bool:
        """Whether validation has not improved for as many epochs as the recipe allows."""
        patience = self._learner.recipe.patience
        return patience is not None and len(self.history) - best_epoch(self.history) >= patience

    def _batches(self, stop: int) -> Iterator[list[Any]]:
        """This process' share of each step's batch, in parts."""
        parts = self._execution.parts
        examples = self._order.parts(self.step, stop, parts, self._process_index, self._process_count)
        pin = self._learner.accelerator.device.type == "cuda"
        read = self._data.batches(examples, self._execution.workers, pin)
        while batch := list(islice(read, parts)):
            yield batch

    def _learn(self, parts: Sequence[Any]) -> None:
        """One step."""
        seed = self._seeds["steps"] + self.step * self._process_count + self._process_index
        reseed(seed, self._learner.accelerator.device)
        rate = self._learner.recipe.rate(self.step, self._order.steps_per_epoch)
        self.step += 1
        context = self._context(len(self.history) + 1)
        self._log.add(self._learner.step(context, rate, parts, self._callbacks), self.step)

    def _context(self, epoch: int) -> TrainingContext:
        """What callbacks see now."""
        return TrainingContext(
            network=self._learner.network,
            optimizer=self._learner.optimizer,
            step=self.step,
            epoch=epoch,
            steps_per_epoch=self._order.steps_per_epoch,
            seed=self._order.seed,
            other_weights=self._other_weights,
        )

    def _end_epoch(self) -> None:
        """Validate, record the epoch, run callbacks, and save the state."""
        self._log.read(self.step)
        number = len(self.history) + 1
        loss, penalties = self._log.epoch_means(self.step - (self.history[-1].step if self.history else 0))
        validation = self._validated(number)
        epoch = Epoch(number, self.step, loss, self._learner.learning_rate, validation, penalties)
        self.history.append(epoch)
        if self._learner.recipe.patience is not None and best_epoch(self.history) == number:
            self._best = copies(self._weights)
        if validation is not None:
            self._log.tell(validation, self.step)
        self._callbacks.run("after_epoch", self._context(number), epoch)
        self._save()

    @property
    def _weights(self) -> Mapping[str, Tensor]:
        """The weights that the network would be given if training ended now."""
        average = self._learner.average
        return tensors_of_network(self._learner.network) if average is None else average.tensors

    @property
    def _other_weights(self) -> tuple[Mapping[str, Tensor], ...]:
        average = self._learner.average
        return tuple(tensors for tensors in (average and average.tensors, self._best) if tensors)

    def _validated(self, epoch: int) -> Validation | None:
        """The result on the validation data after an epoch, of the averaged weights if there are any."""
        if self._data.validation is None:
            return None
        self._callbacks.run("before_validation", self._context(epoch))
        average = self._learner.average
        with nullcontext() if average is None else exchanged(self._learner.network, average.tensors):
            length = -(-self._order.batch_size // (self._execution.parts * self._process_count))
            loss, shell, workers = self._learner.loss, self._learner.shell, self._execution.workers
            return self._data.validated(loss, shell, self._seeds["validation"], length, workers)

    def _state(self) -> TrainingState:
        self._log.read(self.step)
        return TrainingState(
            step=self.step,
            **self._learner.captured(),
            best=copies(self._best, "cpu"),
            history=tuple(self.history),
            losses=self._log.loss,
            penalties=dict(self._log.penalties),
            settings=self._settings,
            callbacks=self._callbacks.captured(),
            origin=self._origin,
        )

    def _save(self) -> None:
        """Write the state, if there is a file for it.

        All processes, and trainings without a file, check the same, so that what cannot be saved is refused early.
        """
        self._log.read(self.step)
        if self._file is not None and self._process_index == 0:
            save_state(self._file, self._state())
        else:
            self._callbacks.captured()

    def _found(self) -> bool:
        """Whether there is a file to go on from.

        Raises:
            InvalidSetting: If only some processes see it, or it could not hold the weights.
        """
        if self._file is None:
            return False
        accelerator = self._learner.accelerator
        if accelerator.distributed_type.value in ("FSDP", "DEEPSPEED"):
            raise InvalidSetting("weights that are split among processes are not saved; leave out state_file")
        count = int(summed(torch.tensor(int(self._file.exists()), device=accelerator.device)))
        if 0 < count < self._process_count:
            raise InvalidSetting(
                f"{count} of {self._process_count} processes see {self._file}; give a file that all of them see"
            )
        if self._process_index == 0:
            clear_leftovers(self._file)
        return count > 0
