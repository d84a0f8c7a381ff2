"""Read files in the format of MNIST, optionally compressed."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scionet.errors import InvalidSetting
from scionet.extras import extra

with extra("images"):
    from PIL import Image

_HEADER, _UINT8 = 4, 8


@dataclass(frozen=True, eq=False)
class IdxRows:
    """Greyscale images with labels.

    Attributes:
        images: Shape ``(count, height, width)``.
        labels: Shape ``(count,)``.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """An image and its label."""
        return Image.fromarray(self.images[index]), int(self.labels[index])


def read_idx(folder: Path, part: str) -> IdxRows:
    """Read one part of a folder with MNIST's four files.

    Args:
        folder: The folder.
        part: ``train`` or ``t10k``.

    Raises:
        InvalidSetting: If a file is missing or damaged.
    """
    return IdxRows(_array(folder, f"{part}-images-idx3-ubyte"), _array(folder, f"{part}-labels-idx1-ubyte"))


def _array(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read the array of a file, optionally compressed with gzip.

    Raises:
        InvalidSetting: If the file is missing or damaged.
    """
    found = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if found is None:
        raise InvalidSetting(f"{folder} has neither {name} nor {name}.gz; give the folder with MNIST's four files")
    try:
        content = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
        if content[:3] != bytes((0, 0, _UINT8)):
            raise ValueError("its header is not that of a byte array")
        shape = np.frombuffer(content, ">i4", content[3], _HEADER)
        return np.frombuffer(content, np.uint8, offset=_HEADER * (1 + len(shape))).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise InvalidSetting(f"{found} is damaged: {error}; download it again") from error
