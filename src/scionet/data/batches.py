"""Pictures of an image folder as batches."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scionet.data.folders import ImageFolder, read_picture
from scionet.data.images import Pixels, Preprocessing
from scionet.errors import CalibrationError, InvalidSetting

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
    chosen = folder.chosen(indices)
    if batch_size < 1:
        raise InvalidSetting(f"batch size must be positive; given {batch_size}")
    pixels = next(_decode(folder, preprocessing, [chosen])) if in_memory else None
    return ImageBatches(folder, preprocessing, batch_size, chosen, labels, pixels)


def _decode(folder: ImageFolder, preprocessing: Preprocessing, chunks: Sequence[Sequence[int]]) -> Iterator[Pixels]:
    """The pictures of each chunk, one chunk ahead of the one that is asked for."""
    pool = ThreadPoolExecutor(DECODERS)
    with folder.reader() as read:

        def submit(chunk: Sequence[int]) -> list[Future[Pixels]]:
            return [pool.submit(read_picture, folder, preprocessing.picture, read, index) for index in chunk]

        try:
            ahead = submit(chunks[0])
            for number, chunk in enumerate(chunks):
                current, ahead = ahead, submit(chunks[number + 1]) if number + 1 < len(chunks) else []
                yield _stack(folder, chunk, [picture.result() for picture in current])
        finally:
            pool.shutdown(cancel_futures=True)


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
