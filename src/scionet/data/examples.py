"""Examples to learn from, one by one: pictures, and rows of any kind."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scionet.data.augmentation import Augmentation
from scionet.data.folders import ImageFolder, read_picture
from scionet.data.images import Pixels, Preprocessing, decoded


class ImageExamples:
    """Pictures of an image folder one by one, as a map-style data set to learn from."""

    def __init__(
        self,
        folder: ImageFolder,
        preprocessing: Preprocessing,
        indices: Sequence[int] | NDArray[np.int64] | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Choose pictures.

        Args:
            folder: The pictures.
            preprocessing: What is done to each.
            indices: Which pictures, in this order; None takes all.
            augmentation: What is done to each at random, with torch's random numbers.

        Raises:
            InvalidSetting: If no picture is chosen, an index is out of range, or the augmentation needs a crop.
        """
        self._folder, self._preprocessing = folder, preprocessing
        self._indices = folder.chosen(indices)
        self._framed = preprocessing.framed if augmentation is None else augmentation.of(preprocessing)
        self._open: tuple[int, Callable[[int], bytes], ExitStack] | None = None

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A picture, float32 ``(3, height, width)``, and its label.

        Raises:
            CalibrationError: If it cannot be decoded; the text names the file.
        """
        number = self._indices[index]
        pixels = read_picture(self._folder, self._pixels, self._reader(), number)
        return self._preprocessing.tensor(np.stack([pixels]))[0], self._folder.labels[number]

    def _pixels(self, data: bytes) -> Pixels:
        return np.asarray(self._framed(decoded(data)))

    def _reader(self) -> Callable[[int], bytes]:
        """Opened once in each process: processes that share an open zip file read at one another's places."""
        if self._open is None or self._open[0] != os.getpid():
            stack = ExitStack()
            self._open = os.getpid(), stack.enter_context(self._folder.reader()), stack
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file, for workers."""
        return {**vars(self), "_open": None}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of any kind as examples to learn from: a Hugging Face data set, a list, a data set of torchvision.

    Attributes:
        rows: Anything with a length and an index.
        inputs: Where a row holds the input: a key, or a position.
        label: Where it holds the label.
        transform: Makes a tensor of the input, such as transforms of torchvision; may use random numbers.
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
