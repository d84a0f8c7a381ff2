"""Read safetensors files, with helpful errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from scionet.errors import CheckpointError


@contextmanager
def opened(path: str | Path, writer: str) -> Iterator[Any]:
    """Open a safetensors file for reading.

    Args:
        path: The file.
        writer: Name of the function that writes such files, for the error message.

    Raises:
        CheckpointError: If the file is missing, unreadable or damaged.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there is no file {path}; give the path of a file that {writer} wrote")
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is truncated, unreadable or not a safetensors file ({error}); copy or save it again"
        ) from error


def tensors_in(path: str | Path, writer: str) -> dict[str, Tensor]:
    """Read all tensors into memory of their own, since safetensors returns views of the mapped file.

    Raises:
        CheckpointError: If the file is missing, unreadable or damaged.
    """
    with opened(path, writer) as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  a file, not a dict
