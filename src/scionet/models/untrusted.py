"""Build the network of a factory that a file names, without trust in the file.

The factory is one of an installed library, but its arguments are those of the file. So it loads no weights. It first
builds the network without memory, on the meta device, and that is compared with the file. Both times the number and the
size of its tensors are bounded by those in the file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import nn

from scionet.errors import CheckpointError, InvalidSetting, PruneError
from scionet.models.factory import find, made, weights_off
from scionet.torch_internals import DispatchMode, tree_leaves

REGISTRIES = ("scionet", "timm", "torchvision")
"""Sources of factories that can be called without running code that the file chooses."""
LARGEST_NUMBER = 10**6
"""No argument may be larger; it counts classes, pixels, channels or blocks."""

Shapes = Sequence[tuple[int, ...]]


def build_untrusted(
    factory: str, kwargs: Mapping[str, Any], shapes: Shapes, check: Callable[[nn.Module], None]
) -> nn.Module:
    """Build the dense network of a file.

    Args:
        factory: One of `REGISTRIES`.
        kwargs: Arguments of the factory.
        shapes: The shapes of all tensors that the network must have.
        check: Raises a `PruneError` for a network that is not the file's; it may be on the meta device.

    Returns:
        The network on the default device, with untrained weights.

    Raises:
        CheckpointError: If an argument is out of range, or the factory fails, or makes more or larger tensors than the
            network needs, or cannot run without memory; and what `check` raises.
        InvalidSetting: If the factory is unknown.
        MissingExtra: If its package is not installed.
    """
    make = find(factory)
    _refuse_absurd(factory, kwargs)
    given = weights_off(make, kwargs)
    with _explained(factory), torch.device("meta"), Bounds(shapes):
        sketch = made(factory, make, given)
    check(sketch)
    del sketch
    with _explained(factory), Bounds(shapes):
        model = made(factory, make, given)
    check(model)
    return model


class Bounds(DispatchMode):
    """While it is active, this thread may run and allocate no more than it takes to build a network of given shapes."""

    def __init__(self, shapes: Shapes) -> None:
        """Derive the bounds from the shapes of the network's tensors."""
        super().__init__()
        self.operations = 2000 + 100 * len(shapes)
        self.entries = max(2**24, 4 * max(map(prod, shapes), default=0))

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, unless it is one too many or allocates too much."""
        self.operations -= 1
        if self.operations < 0:
            raise InvalidSetting("it makes far more tensors than the file has")
        given = dict(kwargs or {})
        leaves = tree_leaves((args, given))
        if not any(isinstance(leaf, torch.Tensor) for leaf in leaves) and "device" in given and _real(given["device"]):
            size = sum(leaf.numel() for leaf in tree_leaves(func(*args, **{**given, "device": torch.device("meta")})))
            if size > self.entries:
                raise InvalidSetting(f"it allocates {size:,} numbers at once, more than the file has in any tensor")
        return func(*args, **given)


def _real(device: torch.device | None) -> bool:
    return device is None or device.type != "meta"


@contextmanager
def _explained(factory: str) -> Iterator[None]:
    """What a factory raises is the file's fault, or a reason to ask for trust.

    Raises:
        CheckpointError: For any error of the factory.
    """
    try:
        yield
    except PruneError as error:
        raise CheckpointError(
            f"the factory {factory}, which the file names, cannot be called safely: {error}. Pass model, a fresh "
            "instance, or trust_factory=True if you trust the file"
        ) from error


def _refuse_absurd(factory: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse numbers beyond any network.

    Raises:
        CheckpointError: If a number, at any depth, is larger than `LARGEST_NUMBER` or not finite.
    """
    for leaf in tree_leaves(dict(kwargs)):
        if isinstance(leaf, int | float) and not abs(leaf) <= LARGEST_NUMBER:
            raise CheckpointError(
                f"the file gives the factory {factory} the number {leaf!r:.40}; at most {LARGEST_NUMBER:,} is allowed. "
                "Pass model, a fresh instance, or trust_factory=True if you trust the file"
            )
