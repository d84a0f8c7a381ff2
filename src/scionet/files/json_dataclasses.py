"""Convert frozen dataclasses to canonical JSON and back, checking every field against its annotation.

Every JSON file that scionet reads is read by `read`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from scionet.errors import PruneError
from scionet.files.parsing import below, parsed_json, refuse_unusual

Kind = TypeVar("Kind")
_OPTIONAL = "optional"


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, unescaped Unicode. Whatever is written can be read.

    Raises:
        ValueError: If a value has no JSON form, or one that `refuse_unusual` refuses, such as NaN.
    """
    content = plain(value)
    refuse_unusual(content, "record")
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def optional(default: Callable[[], Any]) -> Any:
    """A field that is left out of the JSON where it equals its default, as in files without a certain feature."""
    return field(default_factory=default, metadata={_OPTIONAL: True})


def plain(value: Any) -> Any:
    """Convert dataclasses and mappings to dicts and tuples to lists, recursively."""
    if is_dataclass(value):
        named = ((each, getattr(value, each.name)) for each in fields(value))
        return {each.name: plain(item) for each, item in named if not _left_out(each, item)}
    if isinstance(value, Mapping):
        return {str(key) if type(key) is int else key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _left_out(declared: Field[Any], value: Any) -> bool:
    factory = declared.default_factory
    return _OPTIONAL in declared.metadata and factory is not MISSING and bool(value == factory())


def read(kind: type[Kind], text: str, where: str = "record") -> Kind:
    """The inverse of `to_json`.

    Args:
        kind: Type of the value, as for `build`.
        text: JSON.
        where: What the text is, for error messages.

    Raises:
        ValueError: If the text is not strict JSON (see `parsed_json`), or not of the type; the message names the path,
            what was found and what is allowed. An error of ours that a dataclass raises keeps its type.
    """
    return build(kind, parsed_json(text, where), where)


def build(kind: Any, value: Any, where: str = "record") -> Any:
    """The inverse of `plain`: build a value of the annotated type `kind`.

    Args:
        kind: A dataclass, ``tuple[...]``, ``Mapping[...]`` with texts or whole numbers as keys, ``Literal[...]``, a
            union, ``Any``, or a plain type.
        value: Parsed JSON.
        where: Path to the value, for error messages.

    Raises:
        ValueError: If a field is missing, unknown or of another type, or a dataclass refuses its values; the message
            names the path.
    """
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return _member(args, value, where)
    if origin is Literal:
        return _one_of(args, value, where)
    if origin is tuple:
        return _tuple(args, value, where)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(args, value, where)
    return _checked(origin or kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    given = _checked(dict, value, where)
    declared = {each.name: each for each in fields(kind)}
    needed = {n for n, f in declared.items() if f.default is MISSING and f.default_factory is MISSING}
    if problems := [
        *(f"{below(where, name)} is missing" for name in sorted(needed - given.keys())),
        *(f"{below(where, name)} is unknown" for name in sorted(given.keys() - declared.keys())),
    ]:
        raise ValueError("; ".join(problems[:4]))
    hints = get_type_hints(kind)
    values = {name: build(hints[name], item, below(where, name)) for name, item in given.items()}
    try:
        return kind(**values)
    except PruneError as error:
        raise type(error)(f"{where}: {error}") from error


def _member(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """The value as one member of a union."""
    if value is None and NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not NoneType]
    if len(others) == 1:
        return build(others[0], value, where)
    problems = []
    for kind in others:
        try:
            return build(kind, value, where)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(f"{where} fits none of its forms ({'; or '.join(problems)})")


def _tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    items = _checked(list, value, where)
    kinds = args[:1] * len(items) if args[1:] == (...,) else args
    if len(kinds) != len(items):
        raise ValueError(f"{where} must have {len(kinds)} entries; given {len(items)}")
    return tuple(build(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, items, strict=True)))


def _mapping(args: tuple[Any, ...], value: Any, where: str) -> dict[Any, Any]:
    of_key, of_item = args
    given = _checked(dict, value, where)
    return {_key(of_key, key, where): build(of_item, item, below(where, key)) for key, item in given.items()}


def _key(kind: type, key: str, where: str) -> Any:
    if kind is not int:
        return key
    if not (key.isascii() and key.isdecimal() and str(int(key[:20])) == key):
        raise ValueError(f"{where} must have whole numbers as keys; given {key!r:.60}")
    return int(key)


def _one_of(allowed: tuple[Any, ...], value: Any, where: str) -> Any:
    if not any(type(value) is type(one) and value == one for one in allowed):
        raise ValueError(f"{where} must be one of {', '.join(map(repr, allowed))}; given {value!r:.60}")
    return value


def _checked(kind: type, value: Any, where: str) -> Any:
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} must be of type {kind.__name__}; given {value!r:.60}")
    return float(value) if kind is float else value
