"""Pictures for the commands: how they are prepared, which are sampled, and how a sample is found again."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scionet.commands.options import Finetune, Prune, Source
from scionet.data.folders import ImageFolder
from scionet.data.images import Preprocessing
from scionet.data.sampling import sample, sampled
from scionet.errors import InvalidSetting
from scionet.files.json_dataclasses import build
from scionet.network.checkpoints.checkpoint import describe

_MEAN, _STD = 127 / 255, 128 / 255  # of EfficientNet-Lite, for every channel
PRESETS: Mapping[str, Preprocessing] = MappingProxyType(
    {
        "imagenet": Preprocessing(size=256, crop=224),
        "efficientnet_lite": Preprocessing(256, 224, (_MEAN, _MEAN, _MEAN), (_STD, _STD, _STD), "bicubic"),
        "cifar": Preprocessing(),
    }
)
CHANGES = ("size", "crop", "mean", "std", "interpolation")

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ImageSample:
    """Which pictures of a folder were sampled, without naming them.

    Attributes:
        split: The split that was sampled from.
        count: How many were sampled.
        seed: Seed of the sample.
        folder: SHA-256 of the paths of all pictures.
        sampled: SHA-256 of the paths of the sampled ones.
    """

    split: str | None
    count: int
    seed: int
    folder: str
    sampled: str

    @classmethod
    def of(cls, folder: ImageFolder, count: int, seed: int) -> tuple["ImageSample", Indices]:
        """Sample pictures, and describe the sample.

        Raises:
            InvalidSetting: If there are fewer pictures than asked for.
        """
        indices = sample(folder, count, seed)
        everything = _digest(folder.paths)
        return cls(folder.split, count, seed, everything, _digest(folder.paths[i] for i in indices)), indices

    def again(self, folder: ImageFolder) -> Indices:
        """The same pictures once more.

        Raises:
            InvalidSetting: If the folder holds other pictures now, or other ones come out.
        """
        if not self.fits(folder):
            raise InvalidSetting(
                f"{folder.root} (split {folder.split}) is not what the calibration pictures were sampled from (split "
                f"{self.split}); give the same folder and split, or do not ask for the rest"
            )
        again, indices = ImageSample.of(folder, self.count, self.seed)
        if again != self:
            raise InvalidSetting(
                f"seed {self.seed} samples other pictures now; use the version of numpy that was used for pruning"
            )
        return indices

    def fits(self, folder: ImageFolder) -> bool:
        """Whether a folder holds exactly the pictures that were sampled from."""
        return _digest(folder.paths) == self.folder


@dataclass(frozen=True)
class PictureRecord:
    """What the file of a pruned network records of its pictures.

    Attributes:
        preprocessing: How they were prepared.
        samples: How the pictures were sampled that it was calibrated and trained on, one entry for each time.
    """

    preprocessing: Preprocessing
    samples: tuple[ImageSample, ...]

    def extra(self) -> dict[str, Any]:
        """The record, JSON-able, to be found again by `record_of`."""
        return {"pictures": asdict(self)}

    def fits(self, folder: ImageFolder) -> bool:
        """Whether pictures of this folder were seen."""
        return any(sample.fits(folder) for sample in self.samples)

    def seen(self, folder: ImageFolder) -> Indices:
        """The pictures of this folder that the network was calibrated or trained on.

        Raises:
            InvalidSetting: If it was on those of other folders only.
        """
        samples = [sample for sample in self.samples if sample.fits(folder)] or self.samples
        return np.unique(np.concatenate([sample.again(folder) for sample in samples]))


def record_of(path: Path) -> PictureRecord | None:
    """What a file of a pruned network records; None where a program other than scionet's commands wrote it.

    Raises:
        CheckpointError: If the file is missing, damaged or of another format.
        InvalidSetting: If it records its pictures in another form.
    """
    record = describe(path)["extra"].get("pictures")
    if record is None:
        return None
    try:
        return build(PictureRecord, record)
    except ValueError as error:
        raise InvalidSetting(
            f"{path} records its pictures in another form ({error}); prune again with this version of scionet"
        ) from error


def preprocessing(options: Source, recorded: Preprocessing | None = None) -> Preprocessing:
    """How pictures are prepared: the preset, else what a pruned network was made with, changed by single flags.

    Raises:
        InvalidSetting: If nothing says how, or a value is out of range.
    """
    changes = {name: value for name in CHANGES if (value := getattr(options, name)) is not None}
    base = recorded if options.preprocessing is None else PRESETS[options.preprocessing]
    if base is None and not changes:
        raise InvalidSetting(
            f"how are the pictures prepared? Give --preprocessing {' or '.join(PRESETS)}, or some of "
            f"{', '.join(f'--{name}' for name in CHANGES)}"
        )
    return replace(base or Preprocessing(), **changes)


def to_evaluate(
    command: Prune | Finetune[Any], folder: ImageFolder, seen: Indices
) -> tuple[ImageFolder, Indices] | None:
    """What to evaluate on, if that was asked for; never a picture that was seen.

    Raises:
        InvalidSetting: If the flags contradict one another, or there are too few pictures.
    """
    split, rest = command.evaluation.evaluate_split, command.evaluation.evaluate_rest
    if rest and split is not None:
        raise InvalidSetting("give either --evaluate-split or --evaluate-rest, not both")
    if split is not None and split == folder.split:
        raise InvalidSetting(f"split {split!r} is seen before; give another one to evaluate on, or --evaluate-rest")
    if not rest and split is None:
        if command.evaluation.evaluate_images is not None:
            raise InvalidSetting("--evaluate-images needs --evaluate-split or --evaluate-rest")
        return None
    test = folder if rest else ImageFolder(folder.root, split)
    pool = remaining(test, seen if rest else seen[:0])
    return test, sampled(
        pool, command.evaluation.evaluate_images, np.random.default_rng(command.seed), "pictures to evaluate on"
    )


def remaining(folder: ImageFolder, taken: Indices) -> Indices:
    """The pictures that were not taken.

    Raises:
        InvalidSetting: If all were.
    """
    rest = np.setdiff1d(np.arange(len(folder)), taken)
    if not len(rest):
        raise InvalidSetting(
            f"all {len(folder)} pictures were sampled for calibration; sample fewer, so that some are left"
        )
    return rest


def _digest(paths: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()
