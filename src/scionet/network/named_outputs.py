"""What a network returns, as named tensors."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

Tensors = tuple[Tensor, ...]
"""Some outputs of a network, in a fixed order."""
Pick = Callable[[Any], Tensors]
"""The outputs that matter, of what a network returns."""


def named_outputs(returned: Any) -> dict[str, Tensor]:
    """All floating-point tensors in what a network returns, in order.

    A name is the way to a tensor: keys, fields, attributes and positions, joined by dots, such as ``"logits"`` or
    ``"aux.0"``. The name of a tensor that is returned by itself is empty.

    Args:
        returned: A tensor, or nested lists, tuples, mappings and objects with attributes.
    """
    return {".".join(way): tensor for way, tensor in _leaves(returned, ()) if tensor.is_floating_point()}


def shown(name: str) -> str:
    """The name of an output for a text."""
    return repr(name) if name else "the output"


def _leaves(value: Any, way: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield way, value
        return
    for key, item in _items(value):
        yield from _leaves(item, (*way, str(key)))


def _items(value: Any) -> Any:
    """The parts of a container or an object, with the key of each."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)  # type: ignore[attr-defined]
    if isinstance(value, list | tuple):
        return enumerate(value)
    return vars(value).items() if hasattr(value, "__dict__") else ()
