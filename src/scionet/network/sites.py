"""Sites: the sets of channels of a network that can be removed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Slot:
    """Where a site's units sit in one dimension of one tensor.

    Attributes:
        tensor: Qualified name of a parameter or buffer.
        dim: The dimension that shrinks.
        index: Integers, shape ``(width, per_unit)``: the entries that belong to each unit.
    """

    tensor: str
    dim: int
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Address:
    """A tensor operation of a forward pass: the `count`-th call (from 0) of the operator named `op`."""

    op: str
    count: int


@dataclass(frozen=True)
class Consumer:
    """A convolution or linear map that contracts over the units of one or more sites.

    Attributes:
        weight: Qualified name of its weight; inputs are dimension 1 of it, outputs dimension 0.
        module: Qualified name of the module that owns the weight.
        bias: Name of its own bias, if it has one.
        norm: Name of the BatchNorm module that alone receives its output, if there is one.
        shortcut: The operation whose result is added to its (normalised) output, where that is known before the
            consumer runs.
        calls: How often one forward pass calls it; only consumers called once are refitted.
    """

    weight: str
    module: str
    bias: str | None = None
    norm: str | None = None
    shortcut: Address | None = None
    calls: int = 1


@dataclass(frozen=True, eq=False)
class Extent:
    """A dimension of a tensor that is no parameter, and what of it goes with units.

    Attributes:
        size: Number of its entries.
        per_unit: By site, the entries that go with each unit.
    """

    size: int
    per_unit: Mapping[str, int]


@dataclass(frozen=True)
class Operation:
    """A contraction of the forward pass, for counting.

    Attributes:
        weight: Its weight, with dimensions 0 and 1 of which it shrinks; None for a product of two activations.
        macs: Its dense MACs per example.
        extents: Of a product of two activations, the dimensions of the result with which it shrinks.
    """

    weight: str | None
    macs: float
    extents: tuple[Extent, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """A would-be site that is left whole: its name, the operation and module that forbid it, and what to do."""

    site: str
    operation: str
    module: str
    advice: str


@dataclass(frozen=True, eq=False)
class Site:
    """Units that can only be removed one by one as a whole.

    Attributes:
        name: Module path of its first producer.
        width: Number of units N.
        slots: Every tensor dimension that shrinks with the site, producers, pass-throughs and consumers.
        producers: Names of the weights whose output dimension makes the units, in order of execution.
        consumers: Names of the weights that contract over them, in order of execution.
        unit: ``"channel"``, ``"group"`` for whole groups of a grouped convolution, or ``"head"`` for whole heads of
            attention.
    """

    name: str
    width: int
    slots: tuple[Slot, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    unit: str = "channel"

    def slot(self, tensor: str, dim: int) -> Slot:
        """The slot of one tensor dimension."""
        return next(s for s in self.slots if (s.tensor, s.dim) == (tensor, dim))


@dataclass(frozen=True, eq=False)
class Sites(Mapping[str, Site]):
    """All sites of a network by name, in order of execution of their first consumer.

    Attributes:
        sites: The prunable sites.
        consumers: Every consumer of any site by weight name, in order of execution.
        operations: Every contraction of the forward pass, for counting MACs.
        shapes: Shape of every parameter and buffer by name.
        parameters: Names of those that are trainable parameters (tied names once).
        refused: What is left whole, and why.
        dense_hash: Hash of the network's state.
        inputs: Shapes and types of the example inputs, as `scionet.network.checkpoints.manifest.input_record` gives
            them; None if they are not known.
    """

    sites: Mapping[str, Site]
    consumers: Mapping[str, Consumer]
    operations: tuple[Operation, ...]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: tuple[str, ...]
    refused: tuple[Refusal, ...] = ()
    dense_hash: str = ""
    inputs: Mapping[str, Any] | None = None

    def __getitem__(self, name: str) -> Site:
        """The site of that name."""
        return self.sites[name]

    def __iter__(self) -> Iterator[str]:
        """Names, in order of execution of the first consumer."""
        return iter(self.sites)

    def __len__(self) -> int:
        """Number of prunable sites."""
        return len(self.sites)
