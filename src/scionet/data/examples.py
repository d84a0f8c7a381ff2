"""Map-style data sets of training examples: images of a folder, and rows of any collection."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scionet.data.archives import open_archive
from scionet.data.augmentation import Augmentation
from scionet.data.folders import ImageFolder, read_image
from scionet.data.images import Pixels, Preprocessing, decode, pixels_of
from scionet.errors import CalibrationError, InvalidSetting


class ImageExamples:
    """Images of a folder as a map-style data set."""

    def __init__(
        self,
        folder: ImageFolder,
        preprocessing: Preprocessing,
        indices: Sequence[int] | NDArray[np.int64] | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Make the data set.

        Args:
            folder: The image folder.
            preprocessing: Preprocessing of each image.
            indices: Indices of the images, in order; None takes all.
            augmentation: Random augmentation of each image, with torch's generator.

        Raises:
            InvalidSetting: If `indices` is empty, an index is out of range, or the augmentation needs a crop.
        """
        self._folder, self._preprocessing, self._augmentation = folder, preprocessing, augmentation
        self._indices = folder.chosen(indices)
        self._framed = preprocessing.framed if augmentation is None else augmentation.transform(preprocessing)
        self._open: tuple[int, Callable[[int], bytes], ExitStack] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image, float32 ``(channels, height, width)``, and its label.

        Raises:
            CalibrationError: If the image cannot be decoded; the message names the file.
        """
        number = self._indices[index]
        pixels = read_image(self._folder, self._pixels, self._reader(), number)
        return self._preprocessing.tensor(np.stack([pixels]))[0], self._folder.labels[number]

    def identity(self) -> Mapping[str, Any]:
        """What the examples depend on: paths, sizes and labels of all images, and how they are prepared.

        Raises:
            CalibrationError: If a file or the zip file is gone.
        """
        return {
            "files": [self._folder.paths[index] for index in self._indices],
            "sizes": _sizes(self._folder, self._indices),
            "labels": [self._folder.labels[index] for index in self._indices],
            "preprocessing": self._preprocessing,
            "augmentation": self._augmentation,
        }

    def _pixels(self, data: bytes) -> Pixels:
        return pixels_of(self._framed(decode(data)))

    def _reader(self) -> Callable[[int], bytes]:
        """The folder's reader, opened once per process: a shared zip file has one position for all processes."""
        if self._open is None or self._open[0] != os.getpid():
            stack = ExitStack()
            self._open = os.getpid(), stack.enter_context(self._folder.reader()), stack
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        """State for workers, without the open file."""
        return {**vars(self), "_open": None}


def _sizes(folder: ImageFolder, indices: Sequence[int]) -> list[int | tuple[int, int]]:
    """Bytes of each image's file; in a zip file, with its checksum.

    Raises:
        CalibrationError: If a file or the zip file is gone.
    """
    root = Path(folder.root)
    try:
        if root.is_dir():
            return [(root / folder.paths[index]).stat().st_size for index in indices]
        with open_archive(root) as archive:
            entries = [archive.getinfo(folder.paths[index]) for index in indices]
    except (OSError, KeyError, InvalidSetting) as error:
        raise CalibrationError(f"cannot read {root}: {error}; restore it") from error
    return [(entry.file_size, entry.CRC) for entry in entries]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of any collection as examples: a Hugging Face data set, a list, or a torchvision data set.

    Attributes:
        rows: A collection with a length and integer indexing.
        inputs: Key or position of the input in a row.
        label: Key or position of the label.
        transform: Converts the input to a tensor, such as a torchvision transform; may be random.
    """

    rows: Any
    inputs: str | int = 0
    label: str | int = 1
    transform: Callable[[Any], Any] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """An input and its label."""
        row = self.rows[index]
        value = row[self.inputs]
        return (value if self.transform is None else self.transform(value)), int(row[self.label])
