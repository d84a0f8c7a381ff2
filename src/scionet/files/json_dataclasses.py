"""Frozen dataclasses as canonical JSON and back, with every field checked against its annotation."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, UTF-8 text as it is.

    Raises:
        ValueError: If a number is NaN or infinite.
        TypeError: If a value has no JSON form.
    """
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts, tuples as lists, all the way down."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def build(kind: Any, value: Any, where: str = "record") -> Any:
    """The inverse of `plain`: a value of the annotated type `kind`.

    Args:
        kind: A dataclass, ``tuple[...]``, ``Mapping[...]``, ``Literal[...]``, an optional type, a plain type, or Any.
        value: What JSON gave.
        where: Path to the value, for error texts.

    Raises:
        ValueError: If a field is missing, unknown or of another type; the text names its path.
    """
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else build(next(a for a in args if a is not NoneType), value, where)
    if origin is Literal:
        return _one_of(args, value, where)
    if origin is tuple:
        return _build_tuple(args, value, where)
    return _checked(origin or kind, value, where)


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    given = _checked(dict, value, where)
    declared = {field.name: field for field in fields(kind)}
    needed = {n for n, f in declared.items() if f.default is MISSING and f.default_factory is MISSING}
    if problems := [
        *(f"{where}.{name} is missing" for name in sorted(needed - given.keys())),
        *(f"{where}.{name} is unknown" for name in sorted(given.keys() - declared.keys())),
    ]:
        raise ValueError("; ".join(problems))
    hints = get_type_hints(kind)
    return kind(**{name: build(hints[name], item, f"{where}.{name}") for name, item in given.items()})


def _build_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    items = _checked(list, value, where)
    kinds = args[:1] * len(items) if args[1:] == (...,) else args
    if len(kinds) != len(items):
        raise ValueError(f"{where} must have {len(kinds)} entries; given {len(items)}")
    return tuple(build(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, items, strict=True)))


def _one_of(allowed: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in allowed:
        raise ValueError(f"{where} must be one of {', '.join(map(repr, allowed))}; given {value!r:.60}")
    return value


def _checked(kind: type, value: Any, where: str) -> Any:
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} must be of type {kind.__name__}; given {value!r:.60}")
    return float(value) if kind is float else value
