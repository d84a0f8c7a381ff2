"""Which operation reads whose results, in one forward pass, and in which modules. Residual branches are found in it.

Activations are known by the operation that made them, by number. An operation in place makes a new value of the memory
that it writes to, so whoever reads that memory later, under whatever view, depends on the operation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from scionet.network.calling import first_tensor, tensors_of
from scionet.network.discovery.sampling import Sampling
from scionet.network.discovery.trace_records import Call
from scionet.network.sites import Address
from scionet.torch_internals import WeakTensorKeyDictionary, tree_leaves


@dataclass(frozen=True)
class FlowNode:
    """An operation, or an input of the network.

    Attributes:
        operation: Name of the operator; empty for an input of the network.
        address: Where it is in the pass; None for an input.
        reads: Numbers of the operations whose results it reads, ascending.
        weights: Names of the parameters and buffers that it reads.
        modules: Paths of the modules that run it, the outermost first.
        contracts: Whether it is a convolution or matrix product.
        shape: Shape of its result, of the first of several.
        sampling: How spatial sizes change, if it is a convolution or a pooling.
    """

    operation: str
    address: Address | None = None
    reads: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    contracts: bool = False
    shape: tuple[int, ...] = ()
    sampling: Sampling = ()


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """One call of a module.

    Attributes:
        path: Path of the module.
        reads: Number of the value of its first positional tensor; None if there is none, or it is a parameter.
        read_shape: Shape of that tensor.
        makes: Number of the value that it returns, of a tuple the first; None if it returns neither.
        shape: Shape of that tensor.
        place: Position of the tensor in the tuple that is returned, and its length; None if it is returned by itself.
        planes: Tags of that tensor; see `scionet.network.discovery.tracing`.
    """

    path: str
    reads: int | None
    read_shape: tuple[int, ...]
    makes: int | None
    shape: tuple[int, ...]
    place: tuple[int, int] | None
    planes: tuple[Tensor, ...]


class DataFlow:
    """The record of one pass.

    Attributes:
        nodes: Every operation in order, after the network's inputs.
        calls: Every call of a module, in the order in which they return.
        kept: Numbers of values that leave the network: its outputs, and what the forward turns into numbers.
    """

    def __init__(self) -> None:
        self.nodes: list[FlowNode] = []
        self.calls: list[ModuleCall] = []
        self.kept: set[int] = set()
        # Weak keys: with strong ones the record would keep every activation of the pass in memory.
        self._made = WeakTensorKeyDictionary()
        self._written: dict[int, int] = {}

    def add_inputs(self, inputs: Any) -> None:
        """Note the inputs of the network."""
        for tensor in tensors_of(inputs):
            self._add(FlowNode("", shape=tuple(tensor.shape)), [tensor])

    def add(self, node: FlowNode, out: Any, mutated: Iterable[Tensor]) -> None:
        """Note an operation, what it returns, and the tensors that it writes to."""
        self._add(node, [*tensors_of(out), *mutated])
        for tensor in mutated:
            self._written[tensor.untyped_storage().data_ptr()] = len(self.nodes) - 1
        if any(isinstance(leaf, bool | int | float | complex) for leaf in tree_leaves(out)):
            self.kept.update(node.reads)  # the forward may take another path by it

    def _add(self, node: FlowNode, tensors: Iterable[Tensor]) -> None:
        self.nodes.append(node)
        for tensor in tensors:
            self._made[tensor] = len(self.nodes) - 1

    def value(self, tensor: Tensor) -> int | None:
        """Number of the operation that made what a tensor holds now; None for parameters and constants."""
        made = self._made.get(tensor)
        written = self._written.get(tensor.untyped_storage().data_ptr(), -1)  # memory can be reused: newer counts
        return max(made, written) if made is not None else None

    def values(self, arguments: Any) -> tuple[int, ...]:
        """The numbers of all values among some arguments, ascending."""
        found = {self.value(tensor) for tensor in tensors_of(arguments)}
        return tuple(sorted(number for number in found if number is not None))

    @cached_property
    def before(self) -> list[int]:
        """Of each node the nodes that it depends on, itself included, as the bits of an integer."""
        sets: list[int] = []
        for number, node in enumerate(self.nodes):
            own = 1 << number
            for read in node.reads:
                own |= sets[read]
            sets.append(own)
        return sets

    @cached_property
    def given(self) -> int:
        """The inputs of the network, as bits."""
        return bits(number for number, node in enumerate(self.nodes) if node.address is None)

    @cached_property
    def readers(self) -> list[set[int]]:
        """Of each node the nodes that read its result."""
        found: list[set[int]] = [set() for _ in self.nodes]
        for number, node in enumerate(self.nodes):
            for read in node.reads:
                found[read].add(number)
        return found

    @cached_property
    def alive(self) -> int:
        """The nodes that something which leaves the network depends on, as bits."""
        found = 0
        for number in self.kept:
            found |= self.before[number]
        return found

    def after(self, number: int) -> int:
        """The nodes that depend on a node, itself left out, as bits."""
        found = 0
        for later in range(number + 1, len(self.nodes)):
            if self.before[later] >> number & 1:
                found |= 1 << later
        return found


class CallRecorder:
    """Notes the calls of modules in a data flow."""

    def __init__(self, flow: DataFlow, planes_of: Any) -> None:
        """Record into `flow`; `planes_of` returns the tags of a tensor."""
        self._flow, self._planes_of = flow, planes_of
        self._entered: list[int | None] = []

    def entered(self, args: Sequence[Any]) -> None:
        """See `CallListener`. The first argument is looked at now: the module may write into it."""
        first = next(tensors_of(args), None)
        self._entered.append(None if first is None else self._flow.value(first))

    def left(self, path: str, args: Sequence[Any], out: Any) -> None:
        """See `CallListener`."""
        first, reads = next(tensors_of(args), None), self._entered.pop()
        made, place = first_tensor(out)
        self._flow.calls.append(
            ModuleCall(
                path,
                reads,
                () if first is None else tuple(first.shape),
                None if made is None else self._flow.value(made),
                () if made is None else tuple(made.shape),
                None if place is None else (place, len(out)),
                () if made is None else self._planes_of(made),
            )
        )


def mutated_by(op: Call) -> list[Tensor]:
    """The tensors that an operation writes to."""
    written = []
    for position, argument in enumerate(op.func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = op.args[position] if position < len(op.args) else op.kwargs.get(argument.name)
            written += tensors_of(given)
    return written


def bits(numbers: Iterable[int]) -> int:
    """A set of numbers as the bits of an integer."""
    found = 0
    for number in numbers:
        found |= 1 << number
    return found


def numbers_in(found: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    return [number for number in range(found.bit_length()) if found >> number & 1]
