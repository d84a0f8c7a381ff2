"""What the commands that train share: pictures, the file of an interrupted training, the record of a finished one."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scionet.commands import pictures
from scionet.commands.options import Finetune, Search, Shrink
from scionet.commands.pictures import ImageSample, PictureRecord
from scionet.commands.show import advise
from scionet.data.augmentation import Augmentation
from scionet.data.batches import ImageBatches, batches
from scionet.data.examples import ImageExamples
from scionet.data.folders import ImageFolder
from scionet.data.sampling import partition
from scionet.errors import InvalidSetting
from scionet.network.multiprocess import world
from scionet.training.fit import FitResult
from scionet.training.recipes import Recipe

Training = Finetune[Any] | Shrink[Any] | Search[Any]


@dataclass(frozen=True)
class TrainingImages:
    """The pictures of a run.

    Attributes:
        record: Their preparation, and all pictures that the network was calibrated or trained on.
        training: Training pictures.
        validation: Validation pictures, used after every epoch, if there are any.
        evaluation: Pictures to evaluate on before and after, if asked for; the share of this process.
    """

    record: PictureRecord
    training: ImageExamples
    validation: ImageExamples | None
    evaluation: ImageBatches | None


def training_images(command: Training, record: PictureRecord | None) -> TrainingImages:
    """Sample the pictures.

    Args:
        command: The command.
        record: The pictures that the network has seen before, if a file names them.

    Raises:
        InvalidSetting: If the data, the preparation or a number of pictures do not fit.
    """
    recipe: Recipe = command.settings
    prepared = pictures.preprocessing(command.pictures, None if record is None else record.preprocessing)
    folder = ImageFolder(command.pictures.data, command.pictures.split)
    image_sample, sampled = ImageSample.of(folder, _sample_size(command, len(folder)), command.seed)
    parts = partition(len(sampled), {"validation": command.validation_images}, command.seed)
    seen = PictureRecord(prepared, (*(() if record is None else record.samples), image_sample))
    test = pictures.to_evaluate(command, folder, seen.seen(folder))
    rank, size = world()
    return TrainingImages(
        seen,
        ImageExamples(folder, prepared, sampled[parts["train"]], _augmentation(recipe)),
        ImageExamples(folder, prepared, sampled[parts["validation"]]) if command.validation_images else None,
        None if test is None else batches(test[0], prepared, recipe.batch_size, test[1][rank::size], labels=True),
    )


def state_file(command: Training, first: bool) -> Path:
    """The state file beside the output, where the same command finds it again."""
    path = command.out.with_suffix(".training.safetensors")
    if command.restart and first:
        path.unlink(missing_ok=True)
    elif path.exists() and first:
        advise(command, f"going on from {path}")
    return path


def told(command: Training, result: FitResult) -> dict[str, Any]:
    """The record of the training."""
    return {
        "recipe": command.recipe,
        "settings": asdict(command.settings),
        "seed": command.seed,
        "status": result.status,
        "history": [asdict(epoch) for epoch in result.history],
    }


def _sample_size(command: Training, available: int) -> int:
    """Return the numbers of training and validation pictures.

    Raises:
        InvalidSetting: If all would be sampled although the rest is to be evaluated on.
    """
    if command.train_images is not None:
        return command.train_images + command.validation_images
    if command.evaluation.evaluate_rest:
        raise InvalidSetting("--evaluate-rest needs a rest: say by --train-images how many pictures to learn from")
    return available


def _augmentation(recipe: Recipe) -> Augmentation | None:
    kind = recipe.augmentation
    return None if kind == "none" else Augmentation(kind, recipe.padding, recipe.smallest_crop)
