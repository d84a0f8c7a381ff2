"""The data of one training, and what a batch of them is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from scionet.errors import TrainingError, unknown
from scionet.network.multiprocess import world
from scionet.training import identity
from scionet.training.accuracy import accuracy
from scionet.training.given_loss import Loss, refuse_other_losses
from scionet.training.loading import Collate, Examples, load, pairs, tree
from scionet.training.order import SeededIndex
from scionet.training.validation import Measure, Validation, mean_loss


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Training and validation examples.

    Attributes:
        training: Training examples.
        validation: Validation examples, if there are any.
        loss: The caller's loss; None for the cross-entropy of classes.
        measure: What is measured on the validation examples; None for the accuracy of classes, or the caller's loss.
    """

    training: Examples
    validation: Examples | None
    loss: Loss | None
    measure: Measure | None

    def __post_init__(self) -> None:
        """Check the choices and the examples.

        Raises:
            InvalidSetting: If the loss or the measure is none of those allowed.
            TrainingError: If there are no examples, they are no data set, or the validation data are the training data.
        """
        if self.loss is not None:
            refuse_other_losses(self.loss)
        if self.measure not in (None, "accuracy", "loss"):
            raise unknown("validation_measure", str(self.measure), ("accuracy", "loss"))
        _refuse_no_examples(self.training, "training")
        if self.validation is not None:
            _refuse_no_examples(self.validation, "validation")
        if self.validation is self.training:
            raise TrainingError(
                "the validation data are the training data; hold some out (scionet.data.sampling.partition)"
            )

    @property
    def measured(self) -> Measure:
        """What is measured on the validation examples."""
        return self.measure or ("accuracy" if self.loss is None else "loss")

    @property
    def _collate(self) -> Collate[Any]:
        return pairs if self.loss is None else tree

    @property
    def _validation_collate(self) -> Collate[Any]:
        return pairs if self.measured == "accuracy" else self._collate

    def batches(self, batches: Iterator[list[SeededIndex]], workers: int, pin: bool) -> Iterator[Any]:
        """Batches of training examples."""
        return load(self.training, batches, self._collate, workers, pin)

    def validated(
        self, loss: Callable[[nn.Module, Any], Tensor], network: nn.Module, seed: int, length: int, workers: int
    ) -> Validation:
        """The accuracy or the mean loss of a network on the validation examples, of which each process reads a share.

        Args:
            loss: The mean loss of a batch.
            network: The network.
            seed: Seed of the examples' random numbers.
            length: Examples of a batch.
            workers: Processes that read.
        """
        assert self.validation is not None, "nothing is validated without validation data"
        examples = [(index, seed + index) for index in range(world()[0], len(self.validation), world()[1])]
        chosen = [examples[start : start + length] for start in range(0, len(examples), length)]
        batches = load(self.validation, chosen, self._validation_collate, workers)
        if self.measured == "accuracy":
            return accuracy(network, batches)
        return mean_loss(loss, network, zip(batches, map(len, chosen), strict=True))

    def identity(self) -> dict[str, Any]:
        """What identifies the data and what is done with them, as JSON."""
        validation = self.validation
        return {
            "data": identity.of_examples(self.training, self._collate),
            "loss": None if self.loss is None else identity.of_loss(self.loss),
            "validation": None if validation is None else identity.of_examples(validation, self._validation_collate),
            "validation_measure": None if validation is None else self.measured,
        }


def _refuse_no_examples(data: Examples, what: str) -> None:
    """Refuse what is no data set with examples.

    Raises:
        TrainingError: If there are none, or the data have no length.
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
