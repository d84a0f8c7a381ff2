"""What a training logs: losses and penalties, which are read now and then and added up, and validations."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scionet.errors import TrainingError
from scionet.network.multiprocess import summed, world
from scionet.training.grda import smaller_steps
from scionet.training.learner import Learner, StepLosses
from scionet.training.validation import Validation

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

CHECK_STEPS = 50
"""Losses are read every 50 steps: reading waits for the device."""


class TrainingLog:
    """The losses of the current epoch, and the trackers of Accelerate that all results are told.

    Attributes:
        loss: Sum of the losses that were read.
        penalties: Sums of the penalties that were read, by name.
    """

    def __init__(self, learner: Learner, total: int, file: Path | None) -> None:
        """Start with no losses.

        Args:
            learner: What learns.
            total: Steps of the training.
            file: File of the training's state, if there is one.
        """
        self._learner, self._total, self._file = learner, total, file
        self._unread: list[StepLosses] = []
        self._trackers: list[GeneralTracker] = []
        self.loss, self.penalties = 0.0, dict[str, float]()

    def begin(self) -> None:
        """Start the trackers, unless the caller has done so."""
        accelerator = self._learner.accelerator
        if accelerator.log_with and not accelerator.trackers:
            accelerator.init_trackers("scionet")
            self._trackers = accelerator.trackers

    def close(self) -> None:
        """Finish the trackers that were started here."""
        for tracker in self._trackers:
            tracker.finish()
        if self._trackers:
            self._learner.accelerator.trackers = []

    def add(self, losses: StepLosses, step: int) -> None:
        """Take the losses of a step.

        Raises:
            TrainingError: If a loss or a penalty is NaN or infinite; found when losses are read.
        """
        self._unread.append(losses)
        if step % CHECK_STEPS == 0:
            self.read(step)

    def read(self, step: int) -> None:
        """Add up and log the losses that have not been read yet, the last of which is of `step`.

        Raises:
            TrainingError: If a loss or a penalty is NaN or infinite.
        """
        if not self._unread:
            return
        losses = (summed(torch.stack([each.loss for each in self._unread])) / world()[1]).tolist()
        penalties = _numbers_of([each.penalties for each in self._unread])
        for number, (loss, terms) in enumerate(zip(losses, penalties, strict=True), step - len(losses) + 1):
            self._refuse_infinite(number, {"loss": loss, **{f"penalty of {n}": term for n, term in terms.items()}})
            self.loss += loss
            for name, term in terms.items():
                self.penalties[name] = self.penalties.get(name, 0.0) + term
        self._unread.clear()
        logged = {f"penalty/{name}": term for name, term in penalties[-1].items()}
        log = {"loss": losses[-1], "learning_rate": self._learner.learning_rate, **logged}
        self._learner.accelerator.log(log, step=step)

    def epoch_means(self, steps: int) -> tuple[float, dict[str, float]]:
        """The means over the steps of the epoch that ends, all of which have been read; then start the next one."""
        found = self.loss / steps, {name: total / steps for name, total in self.penalties.items()}
        self.loss, self.penalties = 0.0, {}
        return found

    def tell(self, validation: Validation, step: int) -> None:
        """Log the result on the validation data."""
        self._learner.accelerator.log({f"validation_{validation.quantity}": validation.value}, step=step)

    def _refuse_infinite(self, step: int, terms: Mapping[str, float]) -> None:
        """Refuse a loss or penalty that is no number.

        Raises:
            TrainingError: If one is NaN or infinite.
        """
        wrong = [name for name, term in terms.items() if not math.isfinite(term)]
        if not wrong:
            return
        recipe, optimizer = self._learner.recipe, self._learner.optimizer
        rate = float(optimizer.param_groups[0]["initial_lr"])
        saved = f"; the last state is in {self._file}" if self._file is not None else ""
        raise TrainingError(
            f"the {' and the '.join(wrong)} is NaN or infinite at step {step:,} of {self._total:,}; "
            f"{smaller_steps(optimizer)}lower learning_rate ({rate:g}), raise warmup_epochs ({recipe.warmup_epochs}), "
            f"set clip_norm to 1 (it is {recipe.clip_norm}), or look for NaN in the data{saved}"
        )


def _numbers_of(penalties: Sequence[Mapping[str, Tensor]]) -> list[dict[str, float]]:
    """Penalties of several steps as numbers; all wait for the device once."""
    tensors = [tensor for terms in penalties for tensor in terms.values()]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])
    return [{name: next(numbers) for name in terms} for terms in penalties]
