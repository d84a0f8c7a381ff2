"""Values of any kind as JSON that is the same whenever a program runs, to be compared."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from scionet.files.safetensors_files import hash_tensors

_LISTED = 16
"""Longer collections are described by their length and a digest."""
_DEEPEST = 24
"""How deep objects are followed."""


@runtime_checkable
class Identified(Protocol):
    """An object that says itself what identifies it."""

    def identity(self) -> Mapping[str, Any]:
        """What identifies the object: plain values, arrays, and collections of these."""
        ...


def outline(value: Any) -> Any:
    """A value as JSON: its attributes, and all that they hold; bytes, tensors and long collections by their digests.

    An `Identified` object says itself what identifies it. One that holds neither attributes nor bytes, such as a random
    generator or an open file, is described by its class alone. Code is described by its name.
    """
    return _Outline().of(value)


def digest(value: Any) -> str:
    """A short digest of JSON."""
    return _short(json.dumps(value, sort_keys=True).encode())


def qualified_name(value: Any) -> str:
    """Module and name of a class or a function."""
    return f"{value.__module__}.{value.__qualname__}"


class _Outline:
    """One description. An object that occurs again is described by its number, so cycles end."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, object]] = {}  # with the objects: the id of one that is gone is used again
        self._depth = 0

    def of(self, value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if id(value) in self._seen or self._depth == _DEEPEST:
            number = self._seen.get(id(value), (len(self._seen),))[0]
            return f"{qualified_name(type(value))}, object {number}"
        self._seen[id(value)] = len(self._seen), value
        self._depth += 1
        try:
            describe = next((how for kinds, how in _DESCRIPTIONS if isinstance(value, kinds)), _Outline._object)
            return describe(self, value)
        finally:
            self._depth -= 1

    def _object(self, value: Any) -> Any:
        if callable(getattr(value, "tobytes", None)):  # Pillow's images, arrays of other libraries
            return f"{qualified_name(type(value))} {_short(value.tobytes())}"
        return {
            "class": qualified_name(type(value)),
            **{key: self.of(held) for key, held in _attributes(value).items()},
        }

    def _sequence(self, value: Sequence[Any]) -> Any:
        if len(value) <= _LISTED:
            return {str(number): self.of(item) for number, item in enumerate(value)}
        try:
            text = json.dumps(list(value))
        except (TypeError, ValueError):
            text = json.dumps([self.of(item) for item in value])
        return f"{len(value)} entries, {_short(text.encode())}"

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        entries = {key if type(key) is str else str(self.of(key)): self.of(item) for key, item in value.items()}
        return entries if len(entries) <= _LISTED else f"{len(entries)} entries, {digest(entries)}"

    def _set(self, value: Set[Any]) -> Any:
        return self._sequence(sorted((self.of(item) for item in value), key=json.dumps))

    def _of_tensor(self, value: Tensor) -> str:
        try:
            return f"{value.dtype} {tuple(value.shape)} {hash_tensors({'': value})[:16]}"
        except (RuntimeError, TypeError, NotImplementedError):  # a layout without plain memory
            return f"{value.dtype} {tuple(value.shape)} {value.layout}"

    def _array(self, value: np.ndarray) -> Any:
        if value.dtype.hasobject:
            return self._sequence(value.ravel().tolist())
        return f"{value.dtype} {value.shape} {_short(np.ascontiguousarray(value).tobytes())}"

    def _function(self, value: FunctionType) -> Any:
        enclosed = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        held = {"defaults": value.__defaults__, "keywords": value.__kwdefaults__, "enclosed": enclosed}
        return {"function": qualified_name(value), **{key: self.of(part) for key, part in held.items() if part}}


_DESCRIPTIONS: tuple[tuple[Any, Callable[[_Outline, Any], Any]], ...] = (
    (PurePath, lambda _, value: str(value)),
    (bytes, lambda _, value: _short(value)),
    (np.generic, lambda own, value: own.of(value.item())),
    (Tensor, _Outline._of_tensor),
    (np.ndarray, _Outline._array),
    (Mapping, _Outline._mapping),
    ((list, tuple, range), _Outline._sequence),
    (Set, _Outline._set),
    ((type, BuiltinFunctionType), lambda _, value: qualified_name(value)),
    (ModuleType, lambda _, value: value.__name__),
    (FunctionType, _Outline._function),
    (MethodType, lambda own, value: {"method": value.__name__, "of": own.of(value.__self__)}),
    (partial, lambda own, value: own.of([value.func, value.args, value.keywords])),
    (Identified, lambda own, value: own.of(value.identity())),
)
"""How values of some types are described, the first that fits; other objects by their attributes."""


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable that has no value yet
        return False


def _attributes(value: object) -> dict[str, Any]:
    """What an object holds, in its dictionary and in slots."""
    slots = [slot for kind in type(value).__mro__ for slot in _slots(kind)]
    return {**getattr(value, "__dict__", {}), **{slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}}


def _slots(kind: type) -> tuple[str, ...]:
    found = kind.__dict__.get("__slots__", ())
    return tuple(slot for slot in ((found,) if isinstance(found, str) else found) if not slot.startswith("__"))
