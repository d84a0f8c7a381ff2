"""Read grey square images from a table of numbers, optionally compressed."""

import gzip
import math
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scionet.data.grey import GreyRows
from scionet.errors import InvalidSetting

MAX_BYTES = 256 * 2**20
"""Size of the text, unpacked; MNIST as text has 123 MiB."""


def read_csv(path: Path) -> GreyRows:
    """Read images from a table without a header: in each row, the pixels of a square image, then its label.

    Args:
        path: The file; compressed with gzip if its name ends in ``.gz``.

    Raises:
        InvalidSetting: If the file is missing, damaged or too large, or its rows are not square images with a label.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return _rows(content)
    except FileNotFoundError as error:
        raise InvalidSetting(f"there is no file {path}; give a table of pixels and labels") from error
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise InvalidSetting(
            f"{path} is not a table of pixels and labels: {error}. Each row has the pixels of a square image, whole "
            "numbers from 0 to 255, and then the label, separated by commas; there is no header"
        ) from error


def _rows(content: bytes) -> GreyRows:
    """Parse the table.

    Raises:
        ValueError: If it is too large, or not such a table.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    if not content.strip():
        raise ValueError("it is empty")
    table = np.loadtxt(BytesIO(content), dtype=np.int16, delimiter=",", comments=None, ndmin=2)
    side = math.isqrt(table.shape[1] - 1)
    if side == 0 or side**2 != table.shape[1] - 1:
        raise ValueError(f"its rows have {table.shape[1]:,} numbers, which is not a square and one more")
    if table.min() < 0 or table.max() > 255:
        raise ValueError(f"it has numbers from {table.min()} to {table.max()}")
    images: NDArray[np.uint8] = table[:, :-1].astype(np.uint8).reshape(-1, side, side)
    return GreyRows(images, table[:, -1].astype(np.uint8))
