"""Pictures for the commands: preparation, sampling, and records from which a sample can be repeated."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scionet.commands.options import Finetune, Prune, Search, Shrink, Source
from scionet.data.folders import ImageFolder
from scionet.data.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from scionet.data.sampling import sample, sampled
from scionet.errors import InvalidSetting
from scionet.files.json_dataclasses import build
from scionet.network.checkpoints.checkpoint import describe

_MEAN, _STD = 127 / 255, 128 / 255  # of EfficientNet-Lite, for every channel
PRESETS: Mapping[str, Preprocessing] = MappingProxyType(
    {
        "imagenet": Preprocessing(256, 224, IMAGENET_MEAN, IMAGENET_STD),
        "efficientnet_lite": Preprocessing(256, 224, (_MEAN, _MEAN, _MEAN), (_STD, _STD, _STD), "bicubic"),
        "cifar": Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    }
)
CHANGES = ("size", "crop", "mean", "std", "interpolation")

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ImageSample:
    """A sample of pictures of a folder, described without their names.

    Attributes:
        split: The split that was sampled from.
        count: Number of sampled pictures.
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
        """Sample the same pictures again.

        Raises:
            InvalidSetting: If the folder holds other pictures now, or the sample differs.
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
        """Whether a folder holds exactly the pictures of the sampled folder."""
        return _digest(folder.paths) == self.folder


@dataclass(frozen=True)
class PictureRecord:
    """The record of pictures in the file of a pruned network.

    Attributes:
        preprocessing: How they were prepared.
        samples: The samples that the network was calibrated and trained on, one for each time.
    """

    preprocessing: Preprocessing
    samples: tuple[ImageSample, ...]

    def extra(self) -> dict[str, Any]:
        """The record as JSON, which `record_of` reads."""
        return {"pictures": asdict(self)}

    def fits(self, folder: ImageFolder) -> bool:
        """Whether the network was calibrated or trained on pictures of this folder."""
        return any(sample.fits(folder) for sample in self.samples)

    def seen(self, folder: ImageFolder) -> Indices:
        """Return the pictures of this folder that the network was calibrated or trained on.

        Raises:
            InvalidSetting: If all of them came from other folders.
        """
        samples = [sample for sample in self.samples if sample.fits(folder)] or self.samples
        return np.unique(np.concatenate([sample.again(folder) for sample in samples]))


def record_of(path: Path) -> PictureRecord | None:
    """Read the record of pictures from a file; None if a program other than scionet's commands wrote it.

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
    """Return the preparation: a preset or that of the pruned network, changed by single flags.

    Raises:
        InvalidSetting: If there is neither, or a value is out of range.
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
    command: Prune | Finetune[Any] | Shrink[Any] | Search[Any], folder: ImageFolder, seen: Indices
) -> tuple[ImageFolder, Indices] | None:
    """Return pictures to evaluate on, if asked for; never one that was used for calibration or training.

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
    """Return the pictures that were not sampled.

    Raises:
        InvalidSetting: If all were sampled.
    """
    rest = np.setdiff1d(np.arange(len(folder)), taken)
    if not len(rest):
        raise InvalidSetting(
            f"all {len(folder)} pictures were sampled for calibration; sample fewer, so that some are left"
        )
    return rest


def _digest(paths: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(paths).encode(errors="surrogateescape")).hexdigest()  # names need not be UTF-8
