"""Read safetensors files, with helpful errors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from scionet.errors import CheckpointError
from scionet.files.json_dataclasses import read


class Versioned(Protocol):
    """A header that carries its format version."""

    @property
    def format_version(self) -> int:
        """The version the file was written in."""
        ...


H = TypeVar("H", bound=Versioned)


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


def header_in(
    path: str | Path,
    metadata: Mapping[str, str] | None,
    kind: type[H],
    *,
    key: str,
    contents: str,
    writer: str,
    newest: int,
) -> H:
    """Parse the JSON header of a safetensors file.

    Args:
        path: The file, for the error messages.
        metadata: Its metadata.
        kind: Dataclass of the header.
        key: Where the metadata hold the header.
        contents: What the file should contain, for the error messages.
        writer: Name of the function that writes such files.
        newest: Newest format version that can be read.

    Raises:
        CheckpointError: If the file contains something else, is damaged, or is of a newer format.
    """
    if not metadata or key not in metadata:
        raise CheckpointError(f"{path} contains no {contents}; give a file that {writer} wrote")
    try:
        header = read(kind, metadata[key], "header")
    except ValueError as error:
        raise CheckpointError(f"{path}: its header is damaged ({error}); copy or save it again") from error
    if header.format_version > newest:
        raise CheckpointError(
            f"{path} has format {header.format_version}, but this version reads up to {newest}; upgrade scionet"
        )
    return header
