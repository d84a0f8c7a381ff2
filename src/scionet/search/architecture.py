"""A found architecture, and its file in the form of the official code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scionet.errors import CheckpointError
from scionet.files.atomic import whole_file
from scionet.files.json_dataclasses import build
from scionet.files.parsing import parsed_json

_ENTRIES = ("xchannels", "xblocks")


@dataclass(frozen=True)
class Architecture:
    """Widths and depths of a network.

    Attributes:
        xchannels: Channels of the input, then the width of every convolution in order, those of removed blocks included
            and those of shortcuts left out.
        xblocks: Number of kept blocks of every stage of residual blocks.
    """

    xchannels: tuple[int, ...]
    xblocks: tuple[int, ...] = ()

    def arguments(self) -> dict[str, list[int]]:
        """The arguments of ``scionet:searched``."""
        return {"xchannels": [*self.xchannels], "xblocks": [*self.xblocks]}


def read_architecture(path: str | Path) -> Architecture:
    """Read a configuration of the official code, or one that `write_architecture` wrote.

    Every entry is a pair of a type and a text, or a list of texts. Entries other than `xchannels` and `xblocks` are not
    used.

    Raises:
        CheckpointError: If the file cannot be read, or has no such entries.
    """
    try:
        entries = build(dict, parsed_json(Path(path).read_text(encoding="utf-8"), "the configuration"), "configuration")
        return Architecture(*(_numbers(entries, name) for name in _ENTRIES))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; give an existing file") from error
    except ValueError as error:
        raise CheckpointError(
            f'{path} is no configuration of an architecture: {error}; it has entries such as "xblocks": ["int", '
            '["3", "3", "3"]]'
        ) from error


def write_architecture(
    path: str | Path, architecture: Architecture, macs: Mapping[str, float], overwrite: bool = False
) -> None:
    """Write a configuration in the form of the official code.

    Args:
        path: The file, ending in ``.config``.
        architecture: The architecture.
        macs: Further entries: MACs by name, written in millions, as the official code does.
        overwrite: Replace the file if it exists.

    Raises:
        InvalidSetting: If the name of the file ends otherwise.
        CheckpointError: If the file exists or cannot be written.
    """
    lists = {name: ["int", [str(each) for each in getattr(architecture, name)]] for name in _ENTRIES}
    counts = {name: ["float", f"{count / 1e6:.6f}"] for name, count in macs.items()}
    with whole_file(path, ".config", overwrite=overwrite, error=CheckpointError) as temporary:
        temporary.write_text(json.dumps({**lists, **counts}, indent=2) + "\n", encoding="utf-8")


def _numbers(entries: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """A list of whole numbers.

    Raises:
        ValueError: If it is missing or something else.
    """
    kind, texts = build(tuple[str, tuple[str, ...]], entries.get(name), name)
    if kind != "int" or not all(text.isascii() and text.isdecimal() for text in texts):
        raise ValueError(
            f"{name} must be a pair of 'int' and a list of whole numbers as texts; given {entries[name]!r:.80}"
        )
    return tuple(int(text) for text in texts)
