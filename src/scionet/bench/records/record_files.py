"""Writing text files so that nothing is ever half written."""

import json
from pathlib import Path
from typing import TypeVar

from scionet.errors import PruneError
from scionet.files.atomic import whole_file
from scionet.files.json_dataclasses import build

Value = TypeVar("Value")


class RecordError(PruneError):
    """A file of the referee (a run record, a report, a page with generated parts) cannot be read or written."""


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text by way of a temporary file in the same folder; an existing file stays whole until the end.

    Raises:
        RecordError: If the folder is missing, not writable or full.
    """
    with whole_file(path, path.suffix, overwrite=True, error=RecordError) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, if it is not there.

    Raises:
        RecordError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot make the folder {path}: {error.strerror}; give a folder") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        RecordError: If it is missing, unreadable or no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}; give an existing, readable file") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is damaged: not UTF-8 text ({error}); write it again") from error


def read_value(kind: type[Value], path: Path) -> Value:
    """A dataclass from a file of its JSON text.

    Raises:
        RecordError: If the file cannot be read, or holds something else.
    """
    text = read_text(path)
    try:
        return build(kind, json.loads(text), kind.__name__)
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}; remove it, and it is made again") from error
