"""Pictures as batches and as examples to learn from: of image folders, zip files, and whatever has a length."""

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scionet.augmentation import Augmentation
from scionet.errors import CalibrationError, InvalidSetting
from scionet.folders import ImageFolder
from scionet.pictures import Pixels, Preprocessing
from scionet.seeds import seeded

__all__ = [
    "Augmentation",
    "ImageBatches",
    "ImageExamples",
    "ImageFolder",
    "Pairs",
    "Preprocessing",
    "batches",
    "digits",
    "partition",
    "sample",
]

DECODERS = 2
"""Threads that decode pictures while the network computes; pillow releases the interpreter lock."""


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Batches of an image folder, the same at every iteration; made by `batches`.

    Attributes:
        folder: The pictures.
        preprocessing: What is done to each.
        batch_size: Pictures per batch; the last batch may be smaller.
        indices: Which pictures, in this order.
        labels: Whether ``(images, labels)`` is given instead of images alone.
        pixels: All pictures decoded, shape ``(len(indices), height, width, 3)``, if they are held in memory.
    """

    folder: ImageFolder
    preprocessing: Preprocessing
    batch_size: int
    indices: tuple[int, ...]
    labels: bool = False
    pixels: Pixels | None = None

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        """Images, float32 ``(batch, 3, height, width)``, and their labels, int64 ``(batch,)``, if asked for."""
        starts = range(0, len(self.indices), self.batch_size)
        chunks = [self.indices[start : start + self.batch_size] for start in starts]
        for chunk, pixels in zip(chunks, self._decoded(chunks), strict=True):
            images = self.preprocessing.tensor(pixels)
            yield (images, torch.tensor([self.folder.labels[i] for i in chunk])) if self.labels else images

    def _decoded(self, chunks: Sequence[Sequence[int]]) -> Iterator[Pixels]:
        """The pictures of each chunk, from memory or from the files."""
        if self.pixels is None:
            yield from _decode(self.folder, self.preprocessing, chunks)
        else:
            yield from np.split(self.pixels, range(self.batch_size, len(self.pixels), self.batch_size))


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
        self._indices = _chosen(folder, indices)
        self._picture = preprocessing.picture if augmentation is None else augmentation.of(preprocessing)
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
        pixels = _picture(self._folder, self._picture, self._reader(), number)
        return self._preprocessing.tensor(np.stack([pixels]))[0], self._folder.labels[number]

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


def partition(count: int, sizes: Mapping[str, int], seed: int, rest: str = "train") -> dict[str, NDArray[np.int64]]:
    """Disjoint random parts of the numbers from 0 to ``count - 1``, the same for the same seed.

    A part stays what it is when others are added behind it.

    Args:
        count: Number of examples.
        sizes: Number of examples of each part, such as ``{"test": 1000, "validation": 500, "score": 256}``.
        seed: Seed of the draw.
        rest: Name of the part that gets what is left.

    Returns:
        Indices of each part, ascending.

    Raises:
        InvalidSetting: If a size is negative, nothing is left, or a name is given twice.
    """
    if rest in sizes or min(sizes.values(), default=0) < 0 or sum(sizes.values()) >= count:
        raise InvalidSetting(
            f"cannot take {dict(sizes)} from {count} examples and leave some for {rest!r}; give other names, and sizes "
            "of 0 or more that add up to less"
        )
    order = seeded(seed)("partition").permutation(count)
    parts = np.split(order, np.cumsum([*sizes.values()], dtype=np.int64))
    return {name: np.sort(part) for name, part in zip((*sizes, rest), parts, strict=True)}


def batches(
    folder: ImageFolder,
    preprocessing: Preprocessing,
    batch_size: int,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    labels: bool = False,
    in_memory: bool = False,
) -> ImageBatches:
    """Batches that can be iterated over again and again.

    Args:
        folder: The pictures.
        preprocessing: What is done to each.
        batch_size: Pictures per batch.
        indices: Which pictures, in this order; None takes all.
        labels: Give ``(images, labels)`` instead of images alone.
        in_memory: Decode all pictures once and keep their pixels (3 bytes per pixel). Quick where the same pictures
            are passed several times.

    Raises:
        InvalidSetting: If the batch size is not positive, no picture is chosen, or an index is out of range.
        CalibrationError: When iterated over (at once with `in_memory`), if a picture cannot be decoded or differs in
            size; the text names the file.
    """
    chosen = _chosen(folder, indices)
    if batch_size < 1:
        raise InvalidSetting(f"batch size must be positive; given {batch_size}")
    pixels = next(_decode(folder, preprocessing, [chosen])) if in_memory else None
    return ImageBatches(folder, preprocessing, batch_size, chosen, labels, pixels)


def sample(folder: ImageFolder, count: int, seed: int, per_class: bool = False) -> NDArray[np.int64]:
    """A random subset without repetition, the same for the same seed.

    Args:
        folder: The pictures.
        count: How many; with `per_class`, how many of every class.
        seed: Seed of the draw.
        per_class: Draw from every class separately.

    Returns:
        Indices, ascending.

    Raises:
        InvalidSetting: If there are fewer pictures than asked for.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(folder.labels)
    pools = [np.flatnonzero(labels == c) for c in range(len(folder.classes))] if per_class else [np.arange(len(folder))]
    fewest = min(len(pool) for pool in pools)
    if not 1 <= count <= fewest:
        raise InvalidSetting(f"{count} pictures asked for; {folder.root} has 1..{fewest} to give")
    return np.sort(np.concatenate([rng.choice(pool, count, replace=False) for pool in pools]))


def digits(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits, four fifths to train and one fifth to validate.

    Args:
        seed: Seed of the split, which keeps the shares of the classes.

    Returns:
        Training images, training labels, validation images, validation labels. Images are float32
        ``(count, 1, 8, 8)``, from 0 (paper) to 1 (ink); labels are int64.
    """
    from sklearn.datasets import load_digits  # a second to import, and needed here only
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = (np.asarray(images, dtype=np.float32) / 16).reshape(-1, 1, 8, 8)
    parts = train_test_split(
        pixels, np.asarray(labels, dtype=np.int64), test_size=0.2, random_state=seed, stratify=labels
    )
    train_x, val_x, train_y, val_y = map(torch.from_numpy, parts)
    return train_x, train_y, val_x, val_y


def _chosen(folder: ImageFolder, indices: Sequence[int] | NDArray[np.int64] | None) -> tuple[int, ...]:
    """Indices of pictures, checked.

    Raises:
        InvalidSetting: If there is none, or one is out of range.
    """
    chosen = tuple(range(len(folder))) if indices is None else tuple(int(i) for i in indices)
    if not chosen:
        raise InvalidSetting(f"no picture of {folder.root} is chosen; give at least one index")
    if min(chosen) < 0 or max(chosen) >= len(folder):
        raise InvalidSetting(f"indices {min(chosen)}..{max(chosen)} are outside of the {len(folder)} pictures")
    return chosen


def _decode(folder: ImageFolder, preprocessing: Preprocessing, chunks: Sequence[Sequence[int]]) -> Iterator[Pixels]:
    """The pictures of each chunk, one chunk ahead of the one that is asked for."""
    pool = ThreadPoolExecutor(DECODERS)
    with folder.reader() as read:

        def submit(chunk: Sequence[int]) -> list[Future[Pixels]]:
            return [pool.submit(_picture, folder, preprocessing.picture, read, index) for index in chunk]

        try:
            ahead = submit(chunks[0])
            for number, chunk in enumerate(chunks):
                current, ahead = ahead, submit(chunks[number + 1]) if number + 1 < len(chunks) else []
                yield _stack(folder, chunk, [picture.result() for picture in current])
        finally:
            pool.shutdown(cancel_futures=True)


def _picture(
    folder: ImageFolder, prepare: Callable[[bytes], Pixels], read: Callable[[int], bytes], index: int
) -> Pixels:
    """One picture, ready but for the normalisation.

    Raises:
        CalibrationError: If it cannot be read, decoded or cropped; the text names the file.
    """
    try:
        return prepare(read(index))
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        name = f"{folder.paths[index]} in {folder.root}"
        raise CalibrationError(f"cannot use the picture {name}: {error}; repair or remove it") from error


def _stack(folder: ImageFolder, chunk: Sequence[int], pictures: Sequence[Pixels]) -> Pixels:
    """Pictures as one array.

    Raises:
        CalibrationError: If one differs in size from the first; the text names the file.
    """
    first = pictures[0].shape
    for index, picture in zip(chunk, pictures, strict=True):
        if picture.shape != first:
            sizes = f"{picture.shape[:2]} pixels, and {folder.paths[chunk[0]]} has {first[:2]}"
            raise CalibrationError(f"{folder.paths[index]} has {sizes}; give a size and a crop to make them equal")
    return np.stack(pictures)
