"""TOML files as command-line arguments, so that both are read, checked and explained by one parser."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from scionet.errors import InvalidSetting, unknown


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InvalidSetting: If it cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSetting(f"cannot read {path}: {error.strerror}; give an existing TOML file") from error
    except ValueError as error:
        raise InvalidSetting(f"{path} is no TOML file: {error}") from error


def arguments(table: Mapping[str, Any], kind: type, settings: type, where: str) -> Iterator[str]:
    """Command-line arguments that say the same as a table.

    Args:
        table: What the file says: keys are names of fields; a field that is a dataclass is a table of its own.
        kind: The command's dataclass.
        settings: The dataclass that stands for its type variable, if it has one.
        where: The file, and the table in it, for error texts.

    Raises:
        InvalidSetting: If a key is unknown, or a value is no text, number, truth value or list of these.
    """
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)} - {"config", "debug"}  # they tell how to read, and are known first
    for key, value in table.items():
        if key not in known:
            raise unknown(f"key in {where}", key, known)
        inner = settings if isinstance(hints[key], TypeVar) else hints[key]
        if not is_dataclass(inner):
            yield from _argument(key, value, where)
        elif isinstance(value, Mapping) and isinstance(inner, type):
            yield from arguments(value, inner, settings, f"{where} [{key}]")
        else:
            raise InvalidSetting(f"{key} in {where} must be a table: write [{key}] and its keys below; given {value!r}")


def _argument(key: str, value: Any, where: str) -> Iterator[str]:
    """The arguments of one key.

    Raises:
        InvalidSetting: If the value has no form on the command line.
    """
    flag = key.replace("_", "-")
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        raise InvalidSetting(f"{key} in {where} must be a text, a number, true or false, or a list; given {value!r}")
    if isinstance(value, list):
        yield from (f"--{flag}", *map(str, value))
    elif isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
    else:
        yield f"--{flag}={value}"
