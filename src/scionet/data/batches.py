"""Images of a folder as batches."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scionet.data.folders import ImageFolder, read_image
from scionet.data.images import Pixels, Preprocessing
from scionet.errors import CalibrationError, InvalidSetting

DECODERS = 2
"""Threads that decode images while the network computes; Pillow releases the interpreter lock."""


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Batches of an image folder, identical in every iteration; made by `batches`.

    Attributes:
        folder: The image folder.
        preprocessing: Preprocessing of each image.
        batch_size: Images per batch; the last batch may be smaller.
        indices: Indices of the images, in order.
        labels: Whether batches are ``(images, labels)`` instead of images.
        pixels: All decoded images, shape ``(len(indices), height, width, channels)``, if they are kept in memory.
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
        """Images, float32 ``(batch, channels, height, width)``, with labels, int64 ``(batch,)``, if requested."""
        starts = range(0, len(self.indices), self.batch_size)
        chunks = [self.indices[start : start + self.batch_size] for start in starts]
        for chunk, pixels in zip(chunks, self._decoded(chunks), strict=True):
            images = self.preprocessing.tensor(pixels)
            yield (images, torch.tensor([self.folder.labels[i] for i in chunk])) if self.labels else images

    def _decoded(self, chunks: Sequence[Sequence[int]]) -> Iterator[Pixels]:
        """The images of each chunk, from memory or from files."""
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
    """Make batches that can be iterated over repeatedly.

    Args:
        folder: The image folder.
        preprocessing: Preprocessing of each image.
        batch_size: Images per batch.
        indices: Indices of the images, in order; None takes all.
        labels: Yield ``(images, labels)`` instead of images.
        in_memory: Decode all images once and keep their pixels (3 bytes per pixel). Faster if they are read several
            times.

    Raises:
        InvalidSetting: If the batch size is not positive, `indices` is empty, or an index is out of range.
        CalibrationError: When iterated over (at once with `in_memory`), if an image cannot be decoded or differs in
            size; the message names the file.
    """
    chosen = folder.chosen(indices)
    if batch_size < 1:
        raise InvalidSetting(f"batch_size must be at least 1; given {batch_size}")
    pixels = next(_decode(folder, preprocessing, [chosen])) if in_memory else None
    return ImageBatches(folder, preprocessing, batch_size, chosen, labels, pixels)


def _decode(folder: ImageFolder, preprocessing: Preprocessing, chunks: Sequence[Sequence[int]]) -> Iterator[Pixels]:
    """The decoded images of each chunk; the next chunk is decoded in the background."""
    pool = ThreadPoolExecutor(DECODERS)
    with folder.reader() as read:

        def submit(chunk: Sequence[int]) -> list[Future[Pixels]]:
            return [pool.submit(read_image, folder, preprocessing.pixels, read, index) for index in chunk]

        try:
            ahead = submit(chunks[0])
            for number, chunk in enumerate(chunks):
                current, ahead = ahead, submit(chunks[number + 1]) if number + 1 < len(chunks) else []
                yield _stack(folder, chunk, [image.result() for image in current])
        finally:
            pool.shutdown(cancel_futures=True)


def _stack(folder: ImageFolder, chunk: Sequence[int], images: Sequence[Pixels]) -> Pixels:
    """Stack images into one array.

    Raises:
        CalibrationError: If an image differs in size from the first; the message names the file.
    """
    first = images[0].shape
    for index, image in zip(chunk, images, strict=True):
        if image.shape != first:
            sizes = f"{image.shape[:2]} pixels, but {folder.paths[chunk[0]]} has {first[:2]}"
            raise CalibrationError(f"{folder.paths[index]} has {sizes}; give a size and a crop to make them equal")
    return np.stack(images)
