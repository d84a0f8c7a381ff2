"""Reading and writing the text files of the bench; a file is written completely or not at all."""

from pathlib import Path
from typing import TypeVar

from scionet.errors import PruneError
from scionet.files.atomic import whole_file
from scionet.files.json_dataclasses import read

Value = TypeVar("Value")


class RecordError(PruneError):
    """A file of the bench (a run record, a report, a page with generated parts) cannot be read or written."""


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a temporary file in the same folder and rename it; an existing file is replaced at the end.

    Raises:
        RecordError: If the folder is missing, not writable or full, or the text is not Unicode.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"cannot write {path}: not Unicode text ({error}); escape it") from error
    with whole_file(path, path.suffix, overwrite=True, error=RecordError) as temporary:
        temporary.write_bytes(content)


def make_folder(path: Path) -> None:
    """Make a folder and its parents where they do not exist.

    Raises:
        RecordError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot make the folder {path}: {error.strerror}; give a folder") from error


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises:
        RecordError: If it is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}; give an existing, readable file") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is damaged: not UTF-8 text ({error}); write it again") from error


def read_value(kind: type[Value], path: Path) -> Value:
    """Read a dataclass from a file of its JSON text.

    Raises:
        RecordError: If the file cannot be read, or holds something else.
    """
    text = read_text(path)
    try:
        return read(kind, text, kind.__name__)
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}; remove it, and it is made again") from error
