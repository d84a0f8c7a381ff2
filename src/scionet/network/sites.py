"""Sites: the sets of channels of a network that can be removed, with their producers, consumers and tensors."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scionet.errors import InvalidSetting, unknown
from scionet.network.lineage import Lineage
from scionet.network.phrases import counted
from scionet.network.sites_table import sites_table

if TYPE_CHECKING:
    from scionet.network.branches import Branch


@dataclass(frozen=True, eq=False, repr=False)
class Slot:
    """The entries of a site's units in one dimension of one tensor.

    Attributes:
        tensor: Qualified name of a parameter or buffer.
        dim: The dimension that shrinks.
        index: Integers, shape ``(width, per_unit)``: the entries that belong to each unit.
    """

    tensor: str
    dim: int
    index: NDArray[np.int64]

    def __repr__(self) -> str:
        """The slot in one line, without its indices."""
        units, entries = self.index.shape
        size = "1 entry" if entries == 1 else f"{entries:,} entries"
        return f"Slot({self.tensor!r}, dim {self.dim}, {counted(units, 'unit')} of {size})"


@dataclass(frozen=True)
class Address:
    """A tensor operation of a forward pass: the `count`-th call (from 0) of the operator named `op`."""

    op: str
    count: int


@dataclass(frozen=True)
class Consumer:
    """A convolution or linear map that contracts over the units of one or more sites.

    Attributes:
        weight: Qualified name of its weight; dimension 0 holds the outputs, dimension 1 the inputs.
        module: Qualified name of the module that owns the weight.
        bias: Name of its bias, if it has one.
        norm: Name of the BatchNorm module that is the only reader of its output, if there is one.
        shortcut: The operation whose result is added to its (normalised) output, if that operation runs before the
            consumer.
        calls: Number of calls in one forward pass; only consumers that are called once are refitted.
    """

    weight: str
    module: str
    bias: str | None = None
    norm: str | None = None
    shortcut: Address | None = None
    calls: int = 1


@dataclass(frozen=True, eq=False)
class Extent:
    """A dimension of an activation, and how much of it is removed with the units of sites.

    Attributes:
        size: Number of its entries.
        per_unit: By site, the number of entries that each unit takes with it.
    """

    size: int
    per_unit: Mapping[str, int]


@dataclass(frozen=True)
class Operation:
    """A contraction of the forward pass, for counting MACs.

    Attributes:
        weight: Its weight, whose dimensions 0 and 1 can shrink; None for a product of two activations.
        macs: MACs per example in the dense network.
        extents: For a product of two activations, the dimensions of the result that can shrink.
        place: Where it is counted; see `scionet.network.operations.counting_place`.
        varies: Whether its MACs depend on the data, as behind a detector's proposals. They do not count then.
        norm: Name of the BatchNorm module that is the only reader of its result, if there is one.
    """

    weight: str | None
    macs: float
    extents: tuple[Extent, ...] = ()
    place: str = ""
    varies: bool = False
    norm: str | None = None


@dataclass(frozen=True)
class Refusal:
    """A set of channels that is left whole: its name, the operation and module that forbid it, and what to do."""

    site: str
    operation: str
    module: str
    advice: str


@dataclass(frozen=True, eq=False, repr=False)
class Site:
    """Units of one kind, each of which can only be removed as a whole. DepGraph calls a site a pruning group.

    Attributes:
        name: Module path of its first producer.
        width: Number of units N.
        slots: Every tensor dimension that shrinks with the site: of producers, of the layers between, of consumers.
        producers: Names of the weights whose output dimension makes the units, in order of execution.
        consumers: Names of the weights that contract over the units, in order of execution.
        unit: ``"channel"``, ``"group"`` for whole groups of a grouped convolution, or ``"head"`` for whole heads of
            attention.
    """

    name: str
    width: int
    slots: tuple[Slot, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    unit: str = "channel"

    def __repr__(self) -> str:
        """The site in one line, without its slots."""
        ends = (counted(len(self.producers), "producer"), counted(len(self.consumers), "consumer"))
        return f"Site({self.name!r}, {counted(self.width, self.unit)}, {', '.join(ends)})"

    def slot(self, tensor: str, dim: int) -> Slot:
        """The slot of one tensor dimension."""
        return next(s for s in self.slots if (s.tensor, s.dim) == (tensor, dim))


@dataclass(frozen=True, eq=False, repr=False)
class Sites(Mapping[str, Site]):
    """All sites of a network by name, in order of execution of their first consumer.

    `print` shows them as a table of one page.

    Attributes:
        sites: The prunable sites.
        consumers: Every consumer of any site by weight name, in order of execution.
        operations: Every contraction of the forward pass, for counting MACs.
        shapes: Shape of every parameter and buffer by name.
        parameters: Names of those that are parameters; a tied parameter is named once.
        refused: What is left whole, and why.
        dense_hash: Hash of the network's state.
        inputs: Shapes and types of the example inputs, as `scionet.network.checkpoints.records.input_record` gives
            them; None if they are not known.
        model_name: Name of the network's class.
        lineage: How the network came out of another, if it was pruned before.
        branches: The residual branches that can be dropped by name, in order of execution.
        refused_branches: Residual branches that cannot be dropped, and why.
        dropped: Names of the branches that these sites are without; see `scionet.network.branches.remaining`.
    """

    sites: Mapping[str, Site]
    consumers: Mapping[str, Consumer]
    operations: tuple[Operation, ...]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: tuple[str, ...]
    refused: tuple[Refusal, ...] = ()
    dense_hash: str = ""
    inputs: Mapping[str, Any] | None = None
    model_name: str = ""
    lineage: Lineage | None = None
    branches: Mapping[str, "Branch"] = field(default_factory=dict)
    refused_branches: tuple[Refusal, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def counted(self) -> tuple[Operation, ...]:
        """The contractions whose MACs count: those that do not depend on the data."""
        return tuple(operation for operation in self.operations if not operation.varies)

    @property
    def uncounted(self) -> frozenset[str]:
        """Places of the contractions whose MACs depend on the data."""
        return frozenset(operation.place for operation in self.operations if operation.varies)

    def refuse_clash(self, branches: Iterable[str]) -> None:
        """Refuse branches that cannot be dropped together.

        Raises:
            InvalidSetting: If there is no such branch, or one lies in another.
        """
        seen: list[Branch] = []
        for name in branches:
            if name not in self.branches:
                raise unknown("residual branch", name, self.branches)
            branch = self.branches[name]
            if both := [other.name for other in seen if branch.overlaps(other)]:
                raise InvalidSetting(
                    f"one of the branches {both[0]!r} and {name!r} lies in the other; drop one of them"
                )
            seen.append(branch)

    def __getitem__(self, name: str) -> Site:
        """The site of that name."""
        return self.sites[name]

    def __iter__(self) -> Iterator[str]:
        """Names, in order of execution of the first consumer."""
        return iter(self.sites)

    def __len__(self) -> int:
        """Number of prunable sites."""
        return len(self.sites)

    def __str__(self) -> str:
        """A table of one page: the sites, and the channels that are left whole."""
        return sites_table(self)

    def __repr__(self) -> str:
        """The sites in one line: their number, and the number of their units."""
        name = [self.model_name] if self.model_name else []
        numbers = [counted(len(self), "site"), counted(sum(site.width for site in self.values()), "unit")]
        numbers += [f"{len(self.branches)} branches"] if self.branches else []
        return f"Sites({', '.join([*name, *numbers, f'{len(self.refused):,} left whole'])})"
