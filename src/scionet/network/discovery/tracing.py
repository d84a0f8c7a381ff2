"""One traced forward pass: which entries of which tensors can only be removed together.

Every entry of every dimension (larger than one) of every parameter and buffer gets a *tag*, an integer. A tensor
carries *planes*: integer arrays that broadcast to its shape, with the tag of each element, or -1 where it has none. An
element is removed from the network when any of its tags is removed. Operations propagate tags to their results, unite
them or lock them. `scionet.network.discovery.rules` defines what each operation does.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from scionet.errors import UnsupportedModel
from scionet.network.calling import Batch, as_arguments, state_of, tensors_of
from scionet.network.discovery.dataflow import CallRecorder, DataFlow, FlowNode, mutated_by
from scionet.network.discovery.sampling import sampling_of
from scionet.network.discovery.trace_records import Call, Contraction, Grid, Lock, Planes, TensorBlock
from scionet.network.network import Network
from scionet.network.operations import ModulePath, counting_place, macs_of
from scionet.network.sites import Address
from scionet.torch_internals import DispatchMode, WeakTensorKeyDictionary


class Trace(DispatchMode):
    """The record of one forward pass, filled while the mode is active.

    Attributes:
        network: The network.
        state: Its own parameters and buffers by name.
        blocks: Tags of the parameters and buffers.
        edges: Pairs of tag arrays of equal length; tags at the same place must be removed together.
        locks: Tags that must stay.
        grids: Planes of tags that were spread over several dimensions.
        contractions: Every convolution and matrix product, in order.
        flow: Which operation reads whose results, in which modules.
    """

    def __init__(self, network: Network, rule: Callable[["Trace", Call], None]) -> None:
        super().__init__()
        self.network, self.state = network, state_of(network.model)
        self.blocks: list[TensorBlock] = []
        self.edges: list[tuple[Tensor, Tensor]] = []
        self.locks: list[Lock] = []
        self.grids: list[Grid] = []
        self.contractions: list[Contraction] = []
        self.flow = DataFlow()
        self._rule = rule
        self.path = ModulePath(network, CallRecorder(self.flow, self.planes))
        # Weak keys: with strong ones the record would keep every activation of the pass in memory.
        self._planes = WeakTensorKeyDictionary()
        self._origins = WeakTensorKeyDictionary()
        self._addresses = WeakTensorKeyDictionary()
        self._calls: Counter[str] = Counter()
        self._position = 0
        self._names = network.names_by_address
        self._tag_state()

    def _tag_state(self) -> None:
        first = 0
        for name, tensor in self.state.items():
            if self._names.get(tensor.data_ptr()) != name:  # another name of a tied tensor
                continue
            planes = []
            for dim in (d for d, size in enumerate(tensor.shape) if size > 1):
                size = tensor.shape[dim]
                planes.append(
                    torch.arange(first, first + size).view([-1 if d == dim else 1 for d in range(tensor.ndim)])
                )
                self.blocks.append(TensorBlock(name, dim, first, size))
                first += size
            self._planes[tensor] = tuple(planes)

    def name_of(self, tensor: Tensor, transposed: bool = False) -> str | None:
        """Name of the parameter or buffer that a tensor is as a whole; None for a part of one or anything else.

        Args:
            tensor: The tensor.
            transposed: Whether to ask for the parameter whose transpose it is.
        """
        name = self._names.get(tensor.data_ptr())
        if name is None or (transposed and self.state[name].ndim != 2):
            return None
        stored = self.state[name].t() if transposed else self.state[name]
        return name if (stored.shape, stored.stride()) == (tensor.shape, tensor.stride()) else None

    def planes(self, tensor: Any) -> Planes:
        """The tag planes of a tensor; none for anything else."""
        return (self._planes.get(tensor) or ()) if isinstance(tensor, Tensor) else ()

    def set_planes(self, tensor: Tensor, planes: Iterable[Tensor], operation: str) -> None:
        """Set the planes of a result. A plane with one tag for all elements is locked: the result would be empty."""
        small = [compact(plane) for plane in planes]
        self.lock((p for p in small if p.numel() == 1), operation, "a single channel is picked out of its site")
        self._planes[tensor] = tuple(p for p in small if p.numel() > 1)

    def record_grid(self, plane: Tensor, operation: str) -> None:
        """Note that the tags of this plane can only be removed in whole rows, along one dimension or another."""
        if len(varying(plane)) > 1:
            self.grids.append(Grid(plane, operation, self.path.current))

    def unite(self, first: Tensor, second: Tensor, operation: str) -> None:
        """Unite the tags at the same place of two broadcastable planes; lock a tag where the other plane has none."""
        a, b = torch.broadcast_tensors(first, second)
        both = (a >= 0) & (b >= 0)
        if bool((both & (a != b)).any()):
            self.edges.append((a[both], b[both]))
        self.lock((a[~both], b[~both]), operation, "part of the tensor it meets there has a fixed number of channels")

    def merge(self, plane: Tensor, dims: Iterable[int], operation: str) -> Tensor:
        """Unite the tags along some dimensions and return the plane that varies along the others alone."""
        for dim in varying(plane).intersection(dims):
            first = plane.narrow(dim, 0, 1)
            self.unite(plane, first, operation)
            plane = first
        return plane

    def merge_except(self, plane: Tensor, dim: int, operation: str) -> Tensor:
        """Unite the tags along all dimensions but one and return the plane that varies along that one alone."""
        return self.merge(plane, varying(plane) - {dim}, operation)

    def lock(self, planes: Iterable[Tensor], operation: str, advice: str) -> None:
        """Lock all tags of these planes: what they stand for stays in the network."""
        for plane in planes:
            tags = plane[plane >= 0]
            if tags.numel():
                self.locks.append(Lock(tags.unique(), operation, self.path.current, advice))

    def _weights_in(self, arguments: Any) -> dict[str, Tensor]:
        """The parameters and buffers among some arguments, by name."""
        found = ((self._names.get(tensor.data_ptr()), tensor) for tensor in tensors_of(arguments))
        return {name: tensor for name, tensor in found if name is not None}

    def record_contraction(self, weight: str | None, op: Call) -> Contraction:
        """Record a contraction, for counting MACs and for finding the operations that follow it."""
        place = counting_place(self.path.current, self._weights_in((op.args, op.kwargs)))
        macs = macs_of(op.func, op.args, op.kwargs, op.out) or 0.0
        contraction = Contraction(weight, macs, self._position, place)
        self.contractions.append(contraction)
        if weight is not None:
            self._origins[op.out] = (contraction, False)
        return contraction

    def _is_recorded(self) -> bool:
        """Whether the rule of the current operation recorded it as a contraction."""
        return bool(self.contractions) and self.contractions[-1].position == self._position

    def record_same_origin(self, source: Any, out: Tensor, norm: str | None = None) -> None:
        """Record that `out` is still the result of the contraction that made `source`.

        Args:
            source: A result of the contraction.
            out: A view of it, or its normalised values.
            norm: The BatchNorm in between, if there is one.
        """
        origin = self._origins.get(source) if isinstance(source, Tensor) else None
        if origin is None or (norm and origin[1]):
            return
        contraction, normed = origin
        if norm:
            contraction.norm = norm
        elif not normed:
            contraction.readers -= 1
        self._origins[out] = (contraction, normed or bool(norm))

    def record_sum(self, branch: Any, other: Any) -> None:
        """Record that two tensors are added: `other` is the shortcut of the contraction that made `branch`, if any.

        A shortcut that is computed after the contraction started is not recorded: it is not known at that time.
        """
        if not (isinstance(branch, Tensor) and isinstance(other, Tensor) and branch.shape == other.shape):
            return
        origin, known = self._origins.get(branch), self._addresses.get(other)
        if origin is None or known is None:
            return
        (contraction, _), (address, position) = origin, known
        if position < contraction.position:
            contraction.shortcut = address

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and apply its rule to the tags."""
        kwargs = kwargs or {}
        for tensor in tensors_of((args, kwargs)):
            origin = self._origins.get(tensor)
            if origin is not None and not origin[1]:
                origin[0].readers += 1
        name, reads = func.overloadpacket.__name__, self.flow.values((args, kwargs))
        op = Call(func, name, args, kwargs, func(*args, **kwargs))
        self._rule(self, op)
        if macs_of(func, args, kwargs, op.out) and not self._is_recorded():
            self.record_contraction(None, op)
        address = Address(name, self._calls[name])
        for tensor in tensors_of(op.out):
            self._addresses[tensor] = (address, self._position)
        self._record_flow(op, reads, address)
        self._calls[name] += 1
        self._position += 1
        return op.out

    def _record_flow(self, op: Call, reads: tuple[int, ...], address: Address) -> None:
        node = FlowNode(
            op.name,
            address,
            reads,
            tuple(self._weights_in((op.args, op.kwargs))),
            self.path.running,
            self._is_recorded(),
            next((tuple(tensor.shape) for tensor in tensors_of(op.out)), ()),
            sampling_of(op),
        )
        self.flow.add(node, op.out, mutated_by(op))


def varying(plane: Tensor) -> set[int]:
    """Dimensions along which a plane has more than one entry."""
    return {dim for dim, size in enumerate(plane.shape) if size > 1}


def compact(plane: Tensor) -> Tensor:
    """The plane with size 1 in every dimension along which it is constant."""
    for dim, size in enumerate(plane.shape):
        if size > 1:
            first = plane.narrow(dim, 0, 1)
            if plane.stride(dim) == 0 or bool((plane == first).all()):
                plane = first
    return plane


def trace_forward(network: Network, batch: Batch, rule: Callable[[Trace, Call], None]) -> Trace:
    """Run a network once on `batch` in eval mode and record the pass; the network is left as it was.

    The tags that reach an output of the network are locked.

    Args:
        network: The network.
        batch: Its inputs, on its device.
        rule: Called after each operation with the record so far and the operation; propagates the tags.

    Raises:
        UnsupportedModel: If the network returns no tensor.
    """
    trace, inputs = Trace(network, rule), copy.deepcopy(batch)  # the network may write into its inputs
    trace.flow.add_inputs(as_arguments(inputs))
    with network.as_plain_operations(), trace.path.followed():
        with trace:
            out = network.returned(inputs)
        outputs = list(tensors_of(out))
    if not outputs:
        raise UnsupportedModel(
            f"{type(network.model).__name__} returns no tensor ({type(out).__name__}); wrap it in a module that "
            "returns a tensor, a tuple, a list, a dict or an object with tensors as attributes"
        )
    trace.flow.kept.update(trace.flow.values(outputs))
    for tensor in outputs:
        trace.lock(trace.planes(tensor), "output", "it is an output of the network and stays whole")
    return trace
