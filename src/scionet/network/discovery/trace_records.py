"""What a traced forward pass records: tags of tensors, operations, and what must stay."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scionet.network.sites import Address

Planes = tuple[Tensor, ...]


@dataclass(frozen=True)
class TensorBlock:
    """The tags `first .. first + size - 1` of one dimension of one parameter or buffer."""

    tensor: str
    dim: int
    first: int
    size: int


@dataclass(frozen=True)
class Lock:
    """Tags that must stay: the operation and module that require it, and what the user can do."""

    tags: Tensor = field(repr=False)
    operation: str
    module: str
    advice: str


@dataclass(frozen=True)
class Grid:
    """Tags that an operation spread over several dimensions; they can only be removed in whole rows."""

    plane: Tensor = field(repr=False)
    operation: str
    module: str


@dataclass
class Contraction:
    """One call of a convolution or matrix product.

    Attributes:
        weight: Name of the weight, or None for a product of two activations.
        macs: Multiply-accumulates of the call, for all examples together.
        position: Index of the call among all operations of the pass.
        place: Where it is counted; see `scionet.network.operations.counting_place`.
        readers: Number of operations that read its result.
        norm: Prefix of the BatchNorm that reads its result.
        shortcut: The operation whose result is added to its (normalised) result, if that ran before the call.
        planes: Tags of its result, if it is a product of two activations.
    """

    weight: str | None
    macs: float
    position: int
    place: str
    readers: int = 0
    norm: str | None = None
    shortcut: Address | None = None
    planes: Planes = field(default=(), repr=False)


@dataclass(frozen=True)
class Call:
    """One executed tensor operation: operator, name without namespace and overload, arguments and result."""

    func: Any
    name: str
    args: Sequence[Any] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)
    out: Any = field(repr=False)

    def argument(self, name: str) -> Any:
        """An argument by its name in the operator's schema, given by position, by keyword or by default."""
        for position, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                given = self.args[position] if position < len(self.args) else argument.default_value
                return self.kwargs.get(name, given)
        return None
