"""The smooth piece of a network: every kink stays on the side where it was.

Networks of ReLUs and max-pooling are smooth between their kinks. A difference across a kink measures neither side.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from scionet.errors import InvalidSetting

LINEAR = frozenset("relu relu6 hardtanh leaky_relu threshold hardsigmoid abs clamp clip clamp_min clamp_max".split())
"""Names of functions of one tensor that are linear between kinks. A name that ends in "_" works in place."""
POOLING = {f"max_pool{n}d": n for n in (1, 2, 3)}
"""Names of the functions that choose the largest of a window, with their dimensions."""


@dataclass(frozen=True, eq=False)
class _Line:
    """A function that is linear on its piece: slope x + offset, in the shape of x."""

    slope: Tensor
    offset: Tensor | None

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], at: Tensor) -> "_Line":
        """The piece of an element-wise function at a tensor."""
        with torch.enable_grad():
            at = at.detach().clone().requires_grad_()
            found = function(1 * at)  # no leaf, since the function may work in place
            (slope,) = torch.autograd.grad(found.sum(), at)
        offset = (found - slope * at).detach()
        whole = bool(((slope == 0) | (slope == 1)).all())
        return cls(slope.bool() if whole else slope, offset if offset.any() else None)

    def __call__(self, x: Tensor) -> Tensor:
        found = x * self.slope
        return found if self.offset is None else found + self.offset


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The entries that max-pooling chose, as indices within the last `dims` dimensions."""

    indices: Tensor
    dims: int

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(-self.dims).gather(-1, self.indices.flatten(-self.dims))
        return flat.view(self.indices.shape)


class SmoothPiece(TorchFunctionMode):
    """Records the pieces of a first evaluation; then holds them in all others, which must call the same functions.

    Kinks of ReLU, leaky ReLU, PReLU, hard activations, clamps, absolute values and max-pooling are held. Maxima and
    minima of two tensors, or along a dimension, are not.
    """

    def __init__(self) -> None:
        """Start without pieces."""
        super().__init__()
        self._pieces: list[_Line | _Chosen] = []
        self._place: int | None = None

    def hold(self) -> None:
        """From now on, hold what was recorded. One evaluation follows the other."""
        self._place = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function, or its recorded piece."""
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        plain = name.strip("_")
        if plain == "prelu":
            x, weight = (*args, *options.values())[:2]
            positive = self._piece(x, lambda: _Line.of(functional.relu, x))
            shape = [1, -1, *[1] * (x.ndim - 2)] if weight.numel() > 1 else [1] * x.ndim
            return positive(x) + weight.view(shape) * (x - positive(x))
        if plain == "hardswish":
            x, _, in_place = _split(functional.hardswish, args, options)
            gate = self._piece(x, lambda: _Line.of(functional.hardsigmoid, x))(x)
            return _returned(x, x.clone() * gate, in_place)
        if plain in LINEAR:
            x, function, in_place = _split(func, args, options)
            return _returned(x, self._piece(x, lambda: _Line.of(function, x))(x), in_place or name.endswith("_"))
        if plain in POOLING:
            x, dims = args[0] if args else options["input"], POOLING[plain]
            with_indices = getattr(functional, f"{plain}_with_indices")
            return self._piece(x, lambda: _Chosen(with_indices(*args, **options)[1], dims))(x)
        return func(*args, **options)

    def _piece(self, x: Tensor, made: Callable[[], _Line | _Chosen]) -> _Line | _Chosen:
        """The next recorded piece, or a new one.

        Raises:
            InvalidSetting: If the network now calls other functions.
        """
        if self._place is None:
            self._pieces.append(made())
            return self._pieces[-1]
        piece = self._pieces[self._place % len(self._pieces)]
        self._place += 1
        if isinstance(piece, _Line) and piece.slope.shape != x.shape:
            raise InvalidSetting(
                f"the network does not call the same functions each time: an activation had shape "
                f"{tuple(piece.slope.shape)}, and now {tuple(x.shape)}; its smooth piece cannot be held"
            )
        return piece


def _split(
    func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Tensor, Callable[[Tensor], Tensor], bool]:
    """The input, the function of it without changing it, and whether it is asked to change it."""
    try:
        bound = inspect.signature(func).bind(*args, **options).arguments
    except ValueError:  # a function in C has no signature
        x, *rest = (*args, options.pop("input")) if "input" in options else args
        return x, lambda at: func(at, *rest, **options), False
    x, in_place = bound.pop("input"), bound.pop("inplace", False)
    return x, lambda at: func(at, **bound), in_place


def _returned(x: Tensor, found: Tensor, in_place: bool) -> Tensor:
    return x.copy_(found) if in_place else found
