"""Writing text files so that nothing is ever half written."""

import os
from pathlib import Path
from secrets import token_hex

from scionet.errors import PruneError


class RecordError(PruneError):
    """A file of the referee (a run record, a report, a page with generated parts) cannot be read or written."""


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text by way of a temporary file in the same folder; an existing file stays whole until the end.

    Raises:
        RecordError: If the folder is missing, not writable or full.
    """
    temporary = path.with_name(f".{path.name}.{token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; give a path in a writable folder") from error
    finally:
        temporary.unlink(missing_ok=True)


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
