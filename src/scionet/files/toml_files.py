"""Reads TOML files that may be hostile: within limits of size, with errors of ours."""

from pathlib import Path
from typing import Any

from scionet.errors import PruneError
from scionet.files.parsing import parsed_toml

MAX_BYTES = 2**18
MAX_DOTS = 200
"""Dots in a line; the time of the standard parser grows with the square of the parts of a dotted key."""


def read_toml(path: Path, error: type[PruneError]) -> dict[str, Any]:
    """Read the tables of a TOML file.

    Raises:
        PruneError: As `error`, if the file cannot be read, is no TOML, or exceeds a limit.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return parsed_toml(_checked(content), "the file")
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror}; give an existing TOML file") from reason
    except ValueError as reason:
        raise error(f"{path} is no TOML file: {reason}") from reason


def _checked(content: bytes) -> str:
    """The text of a file that can be parsed in little time.

    Raises:
        ValueError: If it is too large, or not UTF-8.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    text = content.decode("utf-8")
    if any(line.count(".") > MAX_DOTS for line in text.split("\n")):
        raise ValueError(f"a line has more than {MAX_DOTS} dots")
    return text
