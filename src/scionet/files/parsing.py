"""Parse JSON and TOML strictly: what no writer of ours writes is refused, with its place in the text."""

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

DEEPEST = 64
"""Lists and objects may be nested this deep."""
_BITS = 64


def parsed_json(text: str, where: str = "record") -> Any:
    """Parse JSON.

    Args:
        text: The text.
        where: What the text is, for error messages.

    Raises:
        ValueError: If the text is not JSON, a key is given twice, or `refuse_unusual` refuses a value.
    """
    return _strict(lambda: json.loads(text, object_pairs_hook=_object), where)


def parsed_toml(text: str, where: str = "file") -> dict[str, Any]:
    """Parse TOML.

    Args:
        text: The text.
        where: What the text is, for error messages.

    Raises:
        ValueError: If the text is not TOML, or `refuse_unusual` refuses a value.
    """
    return _strict(lambda: tomllib.loads(text), where)


def _strict(parse: Callable[[], Any], where: str) -> Any:
    try:
        value = parse()
    except RecursionError as error:
        raise ValueError(_too_deep(where)) from error
    refuse_unusual(value, where)
    return value


def refuse_unusual(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what JSON files of ours never hold.

    Args:
        value: Parsed JSON or TOML.
        where: Path to it, for error messages.
        depth: How deep it is nested already.

    Raises:
        ValueError: If a value is not allowed; the message names its path. Refused are lists and objects more than
            `DEEPEST` deep, numbers that are NaN, infinite or whole with more than 64 bits, texts that are not Unicode,
            keys that are not texts, and values of other types, such as dates.
    """
    if depth > DEEPEST:
        raise ValueError(_too_deep(where))
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r:.60}; keys must be texts")
            _refuse_text(key, f"a key of {where}")
            refuse_unusual(item, below(where, key), depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if type(item) is not int or item.bit_length() > _BITS:
                refuse_unusual(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, str):
        _refuse_text(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; numbers must be finite")
    elif isinstance(value, int):
        if value.bit_length() > _BITS:
            raise ValueError(f"{where} is a whole number of {value.bit_length():,} bits; at most {_BITS} are allowed")
    elif value is not None:
        raise ValueError(
            f"{where} is a {type(value).__name__}; allowed are texts, numbers, true, false, null, lists and objects"
        )


def below(where: str, key: str) -> str:
    """The path to the entry `key` of the object at `where`; unusual keys are quoted and abridged."""
    return f"{where}.{key}" if key.isprintable() and 0 < len(key) <= 60 else f"{where}[{key!r:.60}]"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r:.60} is given twice in one object")
    return found


def _refuse_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} is {text!r:.60}, which is not Unicode text (a lone surrogate)") from error


def _too_deep(where: str) -> str:
    return f"{where:.200} is nested too deeply; lists and objects may be nested {DEEPEST} deep"
