"""The modules of a residual branch, and what each becomes when the branch is dropped."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile

import torch
from torch import Tensor, nn

from scionet.network.branches import Branch, Removal, StandIn
from scionet.network.calling import state_of
from scionet.network.discovery.dataflow import FlowNode, ModuleCall, bits, numbers_in
from scionet.network.discovery.rules import MOVES
from scionet.network.discovery.sampling import Sampling, composed, sampled
from scionet.network.discovery.tracing import Trace, varying

_HARMLESS = MOVES | frozenset("mul mul_ div div_ clone contiguous _to_copy dropout native_dropout".split())
"""Operations behind the last module of a branch that make a constant out of a constant, and zeros out of zeros."""


@dataclass(frozen=True)
class FoundBranch:
    """A branch, and the tag of each channel of its output (-1 where there is none)."""

    branch: Branch
    tags: Tensor


class NotReplaceable(Exception):
    """Why a branch cannot be replaced by a constant: the operation, the module, and what to do."""


def is_layer(node: FlowNode) -> bool:
    """Whether an operation is a convolution or a linear map, with a stored weight."""
    return node.contracts and bool(node.weights)


class Summand:
    """A summand that is a branch.

    Args:
        trace: The record of the pass.
        term: Number of the summand.
        source: Number of the value that the branch starts from.
        inside: The operations of the branch, as bits.
        sums: The operations of the sum, as bits.
    """

    def __init__(self, trace: Trace, term: int, source: int, inside: int, sums: int) -> None:
        self._trace, self._flow = trace, trace.flow
        self._term, self._source, self._inside, self._sums = term, source, inside, sums

    @property
    def layers(self) -> list[str]:
        """Weights of the convolutions and linear maps inside."""
        nodes = [self._flow.nodes[n] for n in numbers_in(self._inside) if is_layer(self._flow.nodes[n])]
        shapes = self._trace.state
        return list(dict.fromkeys(max(node.weights, key=lambda name: shapes[name].ndim) for node in nodes))

    @property
    def name(self) -> str:
        """The innermost module around all layers; the module of the last layer if there is none."""
        owners = [layer.rpartition(".")[0].split(".") for layer in self.layers]
        shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*owners, strict=False))
        return ".".join(first for first, *_ in shared) or ".".join(owners[-1])

    @cached_property
    def _own(self) -> int:
        """The operations of the branch, and those on parameters alone whose results nothing else reads."""
        own, readers = self._inside, self._flow.readers
        for number in reversed(numbers_in(self._flow.before[self._term] & ~self._inside)):
            fixed = not self._flow.before[number] & self._flow.given
            if fixed and all(own >> reader & 1 for reader in readers[number]):
                own |= 1 << number
        return own

    def found(self, other: int | None) -> FoundBranch:
        """The branch; `other` is the other summand, if there is one only.

        Raises:
            NotReplaceable: If it cannot be replaced.
        """
        self._refuse_readers()
        modules = self._modules()
        output, end = self._output(modules)
        dim, tags = self._channels(output)
        stand_ins = {path: self._stand_in(path, modules, output, dim) for path in modules}
        removal = Removal(output.path, stand_ins)
        removal = replace(removal, loose=self._loose_parameters(removal, end))
        if removal.constant in self._trace.state:
            raise NotReplaceable("constant", output.path, "its tensor of this name is in the place of the branch's own")
        nodes, address = self._flow.nodes, self._flow.nodes[end].address
        assert address is not None, "an operation, not an input of the network"
        known = other is not None and end == self._term and other < end
        return FoundBranch(
            Branch(
                name=self.name,
                removal=removal,
                channels=output.shape[dim],
                dim=dim,
                layers=tuple(self.layers),
                tensors=tuple(n for n in state_of(self._trace.network.model) if removal.takes(n) or n in removal.loose),
                address=address,
                shortcut=nodes[other].address if known and other is not None else None,
            ),
            tags,
        )

    def _refuse_readers(self) -> None:
        """Refuse a branch whose values are read elsewhere.

        Raises:
            NotReplaceable: If one is.
        """
        for number in numbers_in(self._inside):
            readers = bits(self._flow.readers[number]) & self._flow.alive & ~self._own
            if number == self._term:
                readers &= ~self._sums
            if readers or number in self._flow.kept:
                node = self._flow.nodes[number]
                raise NotReplaceable(
                    node.operation, _innermost(node.modules), "what it makes is also read outside the branch"
                )

    def _loose_parameters(self, removal: Removal, end: int) -> tuple[str, ...]:
        """Parameters of modules around the branch that only the branch reads, before its output, which is number `end`.

        Raises:
            NotReplaceable: If the branch shares parameters with other parts of the network.
        """
        state = state_of(self._trace.network.model)
        read: dict[bool, set[str]] = {True: set(), False: set()}
        before = self._own & self._flow.before[end]
        for number, node in enumerate(self._flow.nodes):
            if (before | self._flow.alive) >> number & 1:
                read[bool(before >> number & 1)].update(node.weights)
        loose = {n for n in read[True] if isinstance(state[n], nn.Parameter) and not removal.takes(n)}
        going = {id(tensor): name for name, tensor in state.items() if removal.takes(name) or name in loose}
        used = {name for name in read[False] if id(state[name]) in going}
        tied = {name for name, tensor in state.items() if id(tensor) in going and going[id(tensor)] != name}
        if shared := sorted(used | (tied - {name for name in state if removal.takes(name)})):
            raise NotReplaceable(
                "parameter",
                shared[0],
                "the branch shares it with other parts of the network; put the branch into modules of its own",
            )
        return tuple(sorted(loose))

    @cached_property
    def _ran(self) -> dict[str, int]:
        """The operations that each module ran, or a module registered in it, as bits."""
        ran: dict[str, int] = {}
        for number, node in enumerate(self._flow.nodes):
            paths = {path[:end] for path in node.modules for end in _ends(path)}
            for path in paths:
                ran[path] = ran.get(path, 0) | 1 << number
        return ran

    @cached_property
    def _calls(self) -> dict[str, list[ModuleCall]]:
        """The calls of each module."""
        calls: dict[str, list[ModuleCall]] = {}
        for call in self._flow.calls:
            calls.setdefault(call.path, []).append(call)
        return calls

    def _modules(self) -> list[str]:
        """Paths of the largest modules all of whose operations are in the branch, in order of their first calls.

        Raises:
            NotReplaceable: If an operation that costs MACs is in none of them.
        """
        inside = [path for path in self._calls if path and self._is_inside(path)]
        largest = [path for path in inside if not any(path.startswith(f"{other}.") for other in inside)]
        for number in numbers_in(self._own):
            node = self._flow.nodes[number]
            if node.contracts and not set(largest).intersection(node.modules):
                raise NotReplaceable(
                    node.operation,
                    _innermost(node.modules),
                    "the branch computes it in the forward of a module that also does other things; put the branch "
                    "into a module of its own",
                )
        return largest

    def _is_inside(self, path: str) -> bool:
        """Whether all that a module does is done in the branch. What has no consequence does not count."""
        if path in self._ran:
            return not self._ran[path] & self._flow.alive & ~self._own and bool(self._ran[path] & self._own)
        makes = [call.makes for call in self._calls[path]]
        return all(made is not None and self._inside >> made & 1 for made in makes)

    def _output(self, modules: Sequence[str]) -> tuple[ModuleCall, int]:
        """The call whose result is the branch's output, and the number of that result.

        Raises:
            NotReplaceable: If no module makes it, or one that is called more than once.
        """
        number = self._term
        while True:
            made = [call for call in self._flow.calls if call.path in modules and call.makes == number]
            if made and len(self._calls[made[-1].path]) == 1:
                return made[-1], number
            node = self._flow.nodes[number]
            further = [read for read in node.reads if self._flow.before[read] & self._flow.given]
            within = set(modules).intersection(node.modules)
            if made or within or len(further) != 1 or node.operation not in _HARMLESS:
                raise NotReplaceable(
                    node.operation,
                    _innermost(node.modules),
                    "the branch must end with the output of a module that is called once; put the branch into a "
                    "module of its own",
                )
            number = further[0]

    def _channels(self, output: ModuleCall) -> tuple[int, Tensor]:
        """The dimension of the channels in the branch's output, counted from the end, and the tag of each channel.

        Raises:
            NotReplaceable: If it is not clear which dimension that is.
        """
        own = set(self.layers) | {f"{layer.rpartition('.')[0]}.bias" for layer in self.layers}
        blocks = [block for block in self._trace.blocks if block.tensor in own]
        for plane in output.planes:
            first = int(plane.max())
            dims = [dim for dim in varying(plane) if dim and plane.shape[dim] == output.shape[dim]]
            if len(dims) == 1 and any(block.first <= first < block.first + block.size for block in blocks):
                return dims[0] - len(output.shape), plane.flatten()
        width = self._trace.state[self.layers[-1]].shape[0]  # behind a normalisation over channels, they have no tags
        dims = [dim for dim, size in enumerate(output.shape) if dim and size == width]
        if len(dims) != 1:
            raise NotReplaceable("output", output.path, "it is not clear which dimension holds its channels")
        return dims[0] - len(output.shape), torch.full((width,), -1)

    def _stand_in(self, path: str, modules: Sequence[str], output: ModuleCall, dim: int) -> StandIn:
        """What a module becomes.

        Raises:
            NotReplaceable: If it is not called with a tensor, does not return one, or changes shapes in an unknown way.
        """
        calls = [self._with_input(call) for call in self._calls[path]]
        computed = 0
        for module in modules:
            computed |= self._ran.get(module, 0)
        first = [
            call.reads is not None and not self._flow.before[call.reads] & computed & self._inside for call in calls
        ]
        if any(call.reads is None or call.makes is None for call in calls) or len(set(first)) > 1:
            raise NotReplaceable(
                "call", path, "it must take a tensor, and return a tensor or a tuple that begins with one"
            )
        place = calls[0].place
        if not first[0]:
            return StandIn(dim if path == output.path else None, (), place)
        return StandIn(dim, self._sampling(calls[0], output, dim), place)

    def _with_input(self, call: ModuleCall) -> ModuleCall:
        """A call; one without positional tensors, with the first value from outside that an operation in it reads."""
        ran = self._ran.get(call.path, 0)
        for number in numbers_in(ran) if call.reads is None else ():
            for read in self._flow.nodes[number].reads:
                if not ran >> read & 1:
                    return replace(call, reads=read, read_shape=self._flow.nodes[read].shape)
        return call

    def _sampling(self, call: ModuleCall, output: ModuleCall, dim: int) -> Sampling:
        """How sizes change from the input of the branch to its output.

        Raises:
            NotReplaceable: If convolutions and poolings do not explain it.
        """
        if _without(call.read_shape, dim) == _without(output.shape, dim):
            return ()
        total: Sampling = ((0, 1),) * len(output.shape)
        for number in numbers_in(self._inside):
            if len(step := self._flow.nodes[number].sampling) == len(total):
                total = composed(total, step)
        explained = len(call.read_shape) == len(total)
        if not explained or _without(sampled(call.read_shape, total), dim) != _without(output.shape, dim):
            raise NotReplaceable(
                "call", call.path, "it is not known how the size of the branch's output follows from its input"
            )
        return total


def _innermost(modules: Sequence[str]) -> str:
    return modules[-1] if modules else ""


def _ends(path: str) -> list[int]:
    """The lengths of a path and of the paths around it."""
    return [place for place, sign in enumerate(path) if sign == "."] + ([len(path)] if path else [])


def _without(shape: Sequence[int], dim: int) -> list[int]:
    """The sizes of all dimensions but one, which is counted from the end."""
    return [size for place, size in enumerate(shape) if place - len(shape) != dim]
