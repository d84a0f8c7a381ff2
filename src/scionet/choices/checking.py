"""Frozen dataclasses whose values are checked against their annotations, with one message for all of them."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from scionet.errors import InvalidSetting, unknown

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Range:
    """The numbers that a parameter may take.

    Attributes:
        low: The smallest.
        high: The largest.
        inside: Whether the ends themselves are excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    inside: bool = False

    def __contains__(self, number: float) -> bool:
        """Whether a number is one of them."""
        return self.low < number < self.high if self.inside else self.low <= number <= self.high

    def __str__(self) -> str:
        """The range as a phrase that follows "a float" or "an int"."""
        if self.high == math.inf:
            return f"above {self.low:g}" if self.inside else f"of {self.low:g} or more"
        return f"in ({self.low:g}, {self.high:g})" if self.inside else f"in [{self.low:g}, {self.high:g}]"


class FrozenDict(dict[str, Any]):
    """A dict in a choice: it has a hash, and its items cannot be replaced."""

    def __hash__(self) -> int:  # type: ignore[override]
        """The same for equal items, in any order."""
        return hash(frozenset(self.items()))

    def __setitem__(self, key: str, value: Any) -> None:
        """Refuse: choices are values.

        Raises:
            TypeError: Always.
        """
        raise TypeError(f"a choice cannot be changed; make another one with {key!r}: {value!r}")

    def __reduce__(self) -> tuple[type["FrozenDict"], tuple[dict[str, Any]]]:
        """How copies are made and sent to other processes: at once, not item by item."""
        return FrozenDict, (dict(self),)


Count = Annotated[int, Range(1)]
"""A whole number of 1 or more."""
CountOrZero = Annotated[int, Range(0)]
"""A whole number of 0 or more."""


class Checked:
    """Base of frozen dataclasses that a user makes. Values are checked; `repr` shows what differs from the defaults.

    A subclass is decorated with ``@dataclass(frozen=True, repr=False)``. Annotations say what is allowed: ``bool``,
    ``int``, ``float``, ``str``, ``Literal``, ``None``, other dataclasses, tuples of these, mappings from texts to
    these, unions of them, and ``Annotated[number, Range(...)]``.
    """

    def __post_init__(self) -> None:
        """Check every value, and turn numbers and sequences into the annotated type.

        Raises:
            InvalidSetting: If a value is not allowed; all problems are listed.
        """
        hints = _hints(type(self))
        problems = []
        for field in _fields(self):
            value = getattr(self, field.name)
            found = _converted(hints[field.name], value)
            if found is MISSING:
                problems.append(_problem(type(self), field.name, hints[field.name], value))
            elif found is not value:
                object.__setattr__(self, field.name, found)
        if problems:
            raise InvalidSetting(" ".join(problems))

    def __repr__(self) -> str:
        """The call that makes it, with what differs from the defaults."""
        changed = [f"{f.name}={getattr(self, f.name)!r}" for f in _fields(self) if getattr(self, f.name) != _default(f)]
        return f"{type(self).__name__}({', '.join(changed)})"


def name_of(kind: type | object) -> str:
    """The name of a choice, from its class: ``ErrorCurves`` is called ``"error_curves"``."""
    cls = kind if isinstance(kind, type) else type(kind)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


def by_name(*kinds: type[Kind]) -> dict[str, type[Kind]]:
    """Classes of choices by their names."""
    return {name_of(kind): kind for kind in kinds}


def chosen(value: object, kinds: Mapping[str, type[Kind]], parameter: str) -> Kind:
    """A choice from its name, or as it was given.

    Args:
        value: A name, or an instance of one of `kinds`.
        kinds: The classes that are allowed, by name.
        parameter: What the choice is for, for the error text.

    Raises:
        InvalidSetting: If it is neither, or a name alone is not enough.
    """
    if isinstance(value, str):
        if value not in kinds:
            raise unknown(parameter, value, kinds)
        return made(kinds[value], {})
    for kind in kinds.values():
        if isinstance(value, kind):
            return value
    classes = ", ".join(f"{kind.__name__}()" for kind in kinds.values())
    raise InvalidSetting(f"{parameter} must be one of {', '.join(kinds)}, or {classes}; given {value!r:.80}")


def described(value: Any) -> Any:
    """A choice as JSON: its name and all its parameters."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"name": name_of(value), **{f.name: described(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if isinstance(value, Mapping):
        return {key: described(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | NoneType) else str(value)


def from_description(value: Any, kinds: Mapping[str, type[Kind]], parameter: str) -> Kind:
    """The inverse of `described`; a name alone, or a name with some parameters, is enough.

    Raises:
        InvalidSetting: If the name or a parameter is unknown, or a value is not allowed.
    """
    if not isinstance(value, Mapping):
        return chosen(value, kinds, parameter)
    given = dict(value)
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in kinds:
        raise unknown(parameter, f"{name!s:.80}", kinds)
    return made(kinds[name], given)


def made(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """A choice with these values, which may be in their JSON form.

    Raises:
        InvalidSetting: If a parameter is unknown or missing, or a value is not allowed.
    """
    hints = _hints(kind)
    for key in values:
        if key not in hints:
            raise unknown(f"parameter of {kind.__name__}", str(key), hints)
    needed = [f.name for f in _fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise InvalidSetting(f"{kind.__name__} needs {', '.join(missing)}; give {kind.__name__}({missing[0]}=...)")
    return kind(**{key: _from_json(hints[key], item, key) for key, item in values.items()})


def refuse(settings: object, checks: Mapping[str, bool]) -> None:
    """Raise one error that lists every check that failed.

    Raises:
        InvalidSetting: If one did.
    """
    if failed := [text for text, passed in checks.items() if not passed]:
        raise InvalidSetting(f"{'; '.join(failed)}. Given: {settings}")


def _from_json(annotation: Any, value: Any, parameter: str) -> Any:
    """A value of a parameter from its JSON form."""
    if get_origin(annotation) is Mapping:
        return value
    if isinstance(value, Mapping):
        kinds = by_name(
            *(member for member in _members(annotation) if isinstance(member, type) and is_dataclass(member))
        )
        only = {"name": next(iter(kinds))} if len(kinds) == 1 else {}
        return from_description({**only, **value}, kinds, parameter) if kinds else value
    if not isinstance(value, list):
        return value
    items = (get_args(member)[0] for member in _members(annotation) if get_origin(member) in (tuple, Sequence))
    item_kind = next(items, Any)
    return tuple(_from_json(item_kind, item, parameter) for item in value)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _fields(choice: Any) -> tuple[Field[Any], ...]:
    return fields(choice)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _members(annotation: Any) -> Iterable[Any]:
    """The members of a union, or the annotation itself."""
    if get_origin(annotation) in (UnionType, Union):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _converted(annotation: Any, value: Any) -> Any:
    """The value as the annotation wants it; `MISSING` where it does not allow it."""
    found = (_as_member(member, value) for member in _members(annotation))
    return next((each for each in found if each is not MISSING), MISSING)


def _as_member(member: Any, value: Any) -> Any:
    """The value as one member of a union."""
    origin, args = get_origin(member), get_args(member)
    if member is Any:
        return value
    if origin is Annotated:
        found = _as_member(args[0], value)
        return found if found is not MISSING and found in args[1] else MISSING
    if origin is Literal:
        return value if any(value is arg or (type(value) is type(arg) and value == arg) for arg in args) else MISSING
    if origin in (tuple, Sequence):
        return _as_tuple(args[0], value)
    if origin is Mapping:
        return _as_mapping(args[1], value)
    if member in (int, float):
        return _as_number(member, value)
    return value if isinstance(value, member) else MISSING


def _as_tuple(kind: Any, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return MISSING
    items = tuple(_converted(kind, item) for item in value)
    return MISSING if any(item is MISSING for item in items) else items


def _as_mapping(kind: Any, value: Any) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return MISSING
    items = {key: _converted(kind, item) for key, item in value.items()}
    return MISSING if any(item is MISSING for item in items.values()) else FrozenDict(items)


def _as_number(kind: type, value: Any) -> Any:
    """A number; NumPy's become Python's, truth values are none, nor are NaN and infinite ones."""
    if isinstance(value, bool):
        return MISSING
    if kind is int:
        return int(value) if isinstance(value, Integral) else MISSING
    found = float(value) if isinstance(value, Real) else math.nan
    return found if math.isfinite(found) else MISSING


def _problem(cls: type, parameter: str, annotation: Any, value: Any) -> str:
    """The one message: the parameter, whose it is, what is allowed, what was given, the nearest name."""
    names = [str(arg) for member in _members(annotation) for arg in _literals(member)]
    near = get_close_matches(value, names, n=1, cutoff=0.4) if isinstance(value, str) else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"The parameter {parameter!r} of {cls.__name__} must be {_allowed(annotation)}; given {value!r:.80}.{hint}"


def _literals(member: Any) -> tuple[Any, ...]:
    return tuple(arg for arg in get_args(member) if isinstance(arg, str)) if get_origin(member) is Literal else ()


def _allowed(annotation: Any) -> str:
    """What an annotation allows, as a phrase."""
    parts = [phrase for member in _members(annotation) for phrase in _phrases(member)]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _phrases(member: Any) -> list[str]:
    origin, args = get_origin(member), get_args(member)
    if origin is Annotated:
        return [f"{_phrases(args[0])[0]} {args[1]}"]
    if origin is Literal:
        return [repr(arg) for arg in args]
    if origin in (tuple, Sequence):
        return [f"a list of {_allowed(args[0])}"]
    if origin is Mapping:
        return [f"a mapping from texts to {_allowed(args[1])}"]
    if isinstance(member, type) and is_dataclass(member):
        return [f"{member.__name__}(...)"]
    return {NoneType: ["None"], bool: ["True", "False"], int: ["an int"], float: ["a float"], str: ["a text"]}.get(
        member, [getattr(member, "__name__", str(member))]
    )
