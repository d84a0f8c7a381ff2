"""Files in the format of MNIST, perhaps compressed."""

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
    """Grey pictures and their labels, row by row.

    Attributes:
        images: Shape ``(count, height, width)``.
        labels: Shape ``(count,)``.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """A picture and its label."""
        return Image.fromarray(self.images[index]), int(self.labels[index])


def read_idx(folder: Path, part: str) -> IdxRows:
    """One part of a folder of MNIST's files.

    Args:
        folder: The folder.
        part: ``train`` or ``t10k``.

    Raises:
        InvalidSetting: If a file is missing or damaged.
    """
    return IdxRows(_array(folder, f"{part}-images-idx3-ubyte"), _array(folder, f"{part}-labels-idx1-ubyte"))


def _array(folder: Path, name: str) -> NDArray[np.uint8]:
    """An array of a file in the format of MNIST, or of the same compressed by gzip.

    Raises:
        InvalidSetting: If there is none, or it is damaged.
    """
    found = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if found is None:
        raise InvalidSetting(f"{folder} has neither {name} nor {name}.gz; give the folder of MNIST's four files")
    try:
        content = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
        if content[:3] != bytes((0, 0, _UINT8)):
            raise ValueError("it does not begin as an array of bytes does")
        shape = np.frombuffer(content, ">i4", content[3], _HEADER)
        return np.frombuffer(content, np.uint8, offset=_HEADER * (1 + len(shape))).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise InvalidSetting(f"{found} is damaged: {error}; get it again") from error
