"""The state of a callback within a training state: JSON values and tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from scionet.errors import CheckpointError, TrainingError
from scionet.files.safetensors_files import hash_tensors

_TENSOR, _TUPLE, _DICT, _INT, _FLOAT = "tensor", "tuple", "dict", "int", "float"
"""Keys of the objects that stand for what JSON does not have; dicts are lists of pairs, which keep their order."""
_BITS = 63
"""Longer whole numbers are no numbers in JSON."""
_PLAIN = (bool, int, float, str, type(None))
"""Types that JSON gives back as they were; subclasses such as enumerations it does not."""


@dataclass(frozen=True, eq=False)
class CallbackState:
    """A callback in a training state.

    Attributes:
        kind: Module and name of its class.
        settings: Its settings, JSON-able.
        values: Its state, JSON-able; every tensor is replaced by its key in `tensors`, its strides and its device.
        tensors: The tensors of its state, on the CPU.
    """

    kind: str
    settings: Mapping[str, Any]
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def encoded(state: Mapping[str, Any], owner: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of a callback as JSON-able values and copies of its tensors on the CPU.

    Raises:
        TrainingError: If it holds something that cannot be saved; `owner` names the callback.
    """
    tensors: dict[str, Tensor] = {}

    def encode(value: Any, where: str) -> Any:
        if isinstance(value, Tensor):
            _refuse_tensor(value, where)
            key = str(len(tensors))
            tensors[key] = value.to("cpu", copy=True)
            # Sums over a tensor depend on the order in which it lies in memory, and files are contiguous.
            return {_TENSOR: key, "strides": [*tensors[key].stride()], "on_cpu": value.device.type == "cpu"}
        if type(value) in _PLAIN:
            return _plain(value)
        if type(value) in (list, tuple):
            items = [encode(item, f"{where}[{number}]") for number, item in enumerate(value)]
            return items if type(value) is list else {_TUPLE: items}
        if type(value) is dict and all(type(key) is str for key in value):
            return {_DICT: [[key, encode(item, f"{where}[{key!r}]")] for key, item in value.items()]}
        raise TrainingError(
            f"{where} is of type {type(value).__name__}, which a training state cannot hold. It holds tensors, plain "
            "numbers, strings, booleans, None, and lists, tuples and dicts (with strings as keys) of these. Convert "
            "the value to one of them; or override state() to leave out what on_start() can make again"
        )

    return {key: encode(value, f"{owner}.{key}") for key, value in state.items()}, tensors


def _plain(value: float | str | None) -> Any:
    if isinstance(value, int) and value.bit_length() > _BITS:
        return {_INT: hex(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    return value


def decoded(kept: CallbackState, device: torch.device) -> dict[str, Any]:
    """What was encoded, in memory of its own; tensors that were not on the CPU go to `device`.

    Raises:
        CheckpointError: If something else was encoded.
    """

    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        if value.keys() == {_TENSOR, "strides", "on_cpu"}:
            return _laid_out(kept.tensors[value[_TENSOR]], value["strides"], "cpu" if value["on_cpu"] else device)
        ((kind, content),) = value.items()
        return _MADE[kind](decode(content))

    try:
        return {key: decode(value) for key, value in kept.values.items()}
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the state of the callback {kept.kind} is damaged: {error}; start again") from error


_MADE = {
    _TUPLE: tuple,
    _DICT: dict,
    _INT: lambda text: int(text, 16),
    _FLOAT: lambda text: {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[text],
}
"""What the objects stand for, made of their decoded contents."""


def _laid_out(tensor: Tensor, strides: Any, device: str | torch.device) -> Tensor:
    """A tensor in the order of memory that it had.

    Raises:
        ValueError: If the strides leave gaps or overlap.
    """
    dense = 1
    for stride, size in sorted(zip(strides, tensor.shape, strict=True)):
        if type(stride) is not int or stride < 0 or (size > 1 and tensor.numel() and stride != dense):
            raise ValueError(f"a tensor {tuple(tensor.shape)} has the strides {strides}")
        dense *= size
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=device).copy_(tensor)


def described(value: Any, where: str) -> Any:
    """A setting as JSON, to be compared: tensors by their hash, dataclasses by class and fields.

    Raises:
        TrainingError: If it has no description that is the same whenever the program runs; `where` names the value.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} {tuple(value.shape)} {hash_tensors({'': value})[:16]}"
    if isinstance(value, Mapping):
        return {str(key): described(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [described(item, f"{where}[{number}]") for number, item in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: described(getattr(value, field.name), f"{where}.{field.name}") for field in fields(value)}
        return {"class": type(value).__qualname__, **parts}
    raise TrainingError(
        f"{where} is of type {type(value).__name__}, which cannot be compared when the training goes on; override "
        "settings() to describe it"
    )


def _refuse_tensor(tensor: Tensor, where: str) -> None:
    """Refuse a tensor that would not come back as it was.

    Raises:
        TrainingError: If it requires gradients or is not a plain dense tensor.
    """
    if tensor.requires_grad:
        raise TrainingError(f"{where} requires gradients, which a training state does not hold; keep {where}.detach()")
    if type(tensor) is not Tensor or tensor.layout is not torch.strided:
        raise TrainingError(
            f"{where} is a {type(tensor).__name__} of layout {tensor.layout}; a training state holds plain dense "
            "tensors; convert it"
        )
