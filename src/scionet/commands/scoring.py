"""Accuracy with a progress bar, example pictures, and readable numbers."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from scionet.data.batches import ImageBatches, batches
from scionet.progress import Progress, bars, silent
from scionet.training.accuracy import Accuracy, accuracy


def score(model: nn.Module, batches: ImageBatches, stage: str, quiet: bool, bf16: bool = False) -> Accuracy:
    """Measure the top-1 accuracy.

    Args:
        model: A classifier.
        batches: Pictures with labels.
        stage: Name of the progress bar.
        quiet: Show no progress bar.
        bf16: Compute in bfloat16 where torch's autocast does.

    Raises:
        CalibrationError: If a picture cannot be used, or the logits do not fit the labels or are not finite.
    """
    with nullcontext(silent) if quiet else bars() as tell:
        return accuracy(model, _told(batches, stage, tell), bf16)


def _told(batches: ImageBatches, stage: str, tell: Progress) -> Iterator[Any]:
    tell(stage, 0, len(batches))
    for done, batch in enumerate(batches, 1):
        yield batch
        tell(stage, done, len(batches))


def first(data: ImageBatches, count: int = 2) -> Tensor:
    """The first `count` pictures (all if there are fewer), as example inputs."""
    few = batches(data.folder, data.preprocessing, count, data.indices[:count])
    return next(images for images in few if isinstance(images, Tensor))


def count(number: float) -> str:
    """A large number with its unit: 40.6 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.4g}"


def percent(fraction: float) -> str:
    """A fraction as a percentage with two decimals."""
    return f"{100 * fraction:.2f} %"
