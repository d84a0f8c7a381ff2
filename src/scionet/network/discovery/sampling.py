"""How convolutions and poolings change sizes. A dropped branch must still give the size that it would have had."""

from collections.abc import Sequence

from torch import Tensor

from scionet.network.discovery.trace_records import Call

Sampling = tuple[tuple[int, int], ...]
"""Per dimension ``(added, stride)``: a size becomes ``ceil((size + added) / stride)``."""


def sampling_of(op: Call) -> Sampling:
    """How a convolution or a pooling changes the sizes of its input; nothing for any other operation.

    A window of k entries at steps of s fits ``floor((size + 2 padding - dilation (k - 1) - 1) / s) + 1`` times, and
    once more where `ceil_mode` rounds upwards.
    """
    source = op.args[0] if op.args else None
    if not isinstance(source, Tensor) or op.argument("padding") is None or op.argument("transposed"):
        return ()
    sizes = op.args[1].shape[2:] if op.name == "convolution" else op.argument("kernel_size")
    if not sizes:
        return ()
    columns = [
        _numbers(op, name, len(sizes), default)
        for name, default in (("stride", sizes), ("padding", (0,)), ("dilation", (1,)))
    ]
    further = bool(op.argument("ceil_mode"))
    spatial = [
        (2 * padding - dilation * (size - 1) + further * (stride - 1), stride)
        for size, stride, padding, dilation in zip(_repeated(sizes, len(sizes)), *columns, strict=True)
    ]
    return ((0, 1),) * (source.ndim - len(spatial)) + tuple(spatial)


def composed(first: Sampling, second: Sampling) -> Sampling:
    """The sampling of two operations, one after the other, on equally many dimensions."""
    return tuple((a + c * s, s * t) for (a, s), (c, t) in zip(first, second, strict=True))


def sampled(shape: Sequence[int], sampling: Sampling) -> tuple[int, ...]:
    """The sizes after a sampling."""
    return tuple(-(-(size + added) // stride) for size, (added, stride) in zip(shape, sampling, strict=True))


def _numbers(op: Call, name: str, count: int, default: Sequence[int]) -> list[int]:
    """An argument with a number for each dimension, or one for all."""
    return _repeated(op.argument(name) or default, count)


def _repeated(given: int | Sequence[int], count: int) -> list[int]:
    numbers = [given] if isinstance(given, int) else list(given)
    return numbers * count if len(numbers) == 1 else numbers
