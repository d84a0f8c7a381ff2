"""One watched forward pass: which entries of which tensors can only be removed together.

Every entry of every dimension (larger than one) of every parameter and buffer gets a *label*, an integer. A tensor
carries *planes*: integer arrays in the broadcast form of its shape, -1 where an element has no label. An element
vanishes from the network when any of its labels is removed. Operations hand labels on, unite them, or lock them; what
each operation does is said in `scionet.network.discovery.rules`.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from scionet.errors import UnsupportedModel
from scionet.network.calling import (
    Batch,
    attention_unfused,
    call,
    data_addresses,
    place_of,
    state_of,
    tensors_of,
    undisturbed,
)
from scionet.network.sites import Address
from scionet.torch_internals import TorchDispatchMode, WeakTensorKeyDictionary, flop_registry

Planes = tuple[Tensor, ...]


@dataclass(frozen=True)
class TensorBlock:
    """The labels `first .. first + size - 1` of one dimension of one parameter or buffer."""

    tensor: str
    dim: int
    first: int
    size: int


@dataclass(frozen=True)
class Lock:
    """Labels that must stay, and why."""

    labels: Tensor
    operation: str
    module: str
    advice: str


@dataclass(frozen=True)
class Grid:
    """Labels spread over several dimensions by an operation; without whole rows of them nothing of a shape is left."""

    plane: Tensor
    operation: str
    module: str


@dataclass
class Contraction:
    """One call of a convolution or matrix product.

    Attributes:
        weight: Name of the weight, or None for a product of two activations.
        flops: Floating-point operations of the call (two for each multiply-accumulate).
        position: Index of the call among all operations of the pass.
        module: The module that made the call.
        readers: Number of operations that read its result.
        norm: Prefix of the BatchNorm that reads its result.
        shortcut: The operation whose result is added to its (normalised) result, if that ran before the call.
        planes: Labels of its result, where it is a product of two activations.
    """

    weight: str | None
    flops: float
    position: int
    module: str
    readers: int = 0
    norm: str | None = None
    shortcut: Address | None = None
    planes: Planes = ()


@dataclass(frozen=True)
class Call:
    """One tensor operation: the operator, its name without namespace and overload, arguments and result."""

    func: Any
    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any


class Trace(TorchDispatchMode):
    """The record of one forward pass, filled while the mode is active.

    Attributes:
        blocks: Labels of the parameters and buffers.
        edges: Pairs of equally long label arrays that must be removed together.
        locks: Labels that must stay.
        grids: Where labels were spread over several dimensions.
        contractions: Every convolution and matrix product, in order.
    """

    def __init__(self, model: nn.Module, rule: Callable[["Trace", Call], None]) -> None:
        super().__init__()
        self.blocks: list[TensorBlock] = []
        self.edges: list[tuple[Tensor, Tensor]] = []
        self.locks: list[Lock] = []
        self.grids: list[Grid] = []
        self.contractions: list[Contraction] = []
        self._rule = rule
        self._modules = {module: name for name, module in model.named_modules()}
        self._stack = [""]
        self._planes = WeakTensorKeyDictionary()
        self._origins = WeakTensorKeyDictionary()
        self._made = WeakTensorKeyDictionary()
        self._calls: Counter[str] = Counter()
        self._position = 0
        self._names = data_addresses(model)
        self._state = state_of(model)
        self._label_state()

    def _label_state(self) -> None:
        first = 0
        for name, tensor in self._state.items():
            if self._names.get(tensor.data_ptr()) != name:
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
        """Name of the parameter or buffer that this tensor is as a whole, or the transpose of if so said."""
        name = self._names.get(tensor.data_ptr())
        if name is None or (transposed and self._state[name].ndim != 2):
            return None
        stored = self._state[name].t() if transposed else self._state[name]
        return name if (stored.shape, stored.stride()) == (tensor.shape, tensor.stride()) else None

    def planes(self, tensor: Any) -> Planes:
        """The label planes of a tensor; none for anything else."""
        return (self._planes.get(tensor) or ()) if isinstance(tensor, Tensor) else ()

    def give(self, tensor: Tensor, planes: Iterable[Tensor], operation: str) -> None:
        """Set a tensor's planes. A plane of one label throughout locks it: the tensor would vanish with it."""
        small = [compact(plane) for plane in planes]
        self.lock((p for p in small if p.numel() == 1), operation, "a single channel is picked out of its site")
        self._planes[tensor] = tuple(p for p in small if p.numel() > 1)

    def spread(self, plane: Tensor, operation: str) -> None:
        """The labels in this plane can only be removed in whole rows of it, along one dimension or another."""
        if len(varying(plane)) > 1:
            self.grids.append(Grid(plane, operation, self._stack[-1]))

    def unite(self, first: Tensor, second: Tensor, operation: str) -> None:
        """Labels at the same place in two broadcastable planes are removed together, or stay where one has none."""
        a, b = torch.broadcast_tensors(first, second)
        both = (a >= 0) & (b >= 0)
        if bool((both & (a != b)).any()):
            self.edges.append((a[both], b[both]))
        self.lock((a[~both], b[~both]), operation, "part of the tensor it meets there has a fixed number of channels")

    def merge(self, plane: Tensor, dims: Iterable[int], operation: str) -> Tensor:
        """Unite the labels along some dimensions; the plane that varies along the others alone."""
        for dim in varying(plane).intersection(dims):
            first = plane.narrow(dim, 0, 1)
            self.unite(plane, first, operation)
            plane = first
        return plane

    def gather(self, plane: Tensor, dim: int, operation: str) -> Tensor:
        """Unite all labels at the same place of one dimension; the plane that varies along this dimension alone."""
        return self.merge(plane, varying(plane) - {dim}, operation)

    def lock(self, planes: Iterable[Tensor], operation: str, advice: str) -> None:
        """Labels in these planes stay."""
        for plane in planes:
            labels = plane[plane >= 0]
            if labels.numel():
                self.locks.append(Lock(labels.unique(), operation, self._stack[-1], advice))

    def contract(self, weight: str | None, done: Call) -> Contraction:
        """Note a contraction, for counting and for finding what follows it."""
        count = flop_registry.get(done.func.overloadpacket)
        flops = float(count(*done.args, **done.kwargs, out_val=done.out)) if count else 0.0
        made = Contraction(weight, flops, self._position, self._stack[-1])
        self.contractions.append(made)
        if weight is not None:
            self._origins[done.out] = (made, False)
        return made

    def hand_on(self, source: Any, out: Tensor, norm: str | None = None) -> None:
        """`out` is still the result of the contraction that made `source`, after BatchNorm `norm` if given."""
        origin = self._origins.get(source) if isinstance(source, Tensor) else None
        if origin is None or (norm and origin[1]):
            return
        made, normed = origin
        if norm:
            made.norm = norm
        elif not normed:
            made.readers -= 1
        self._origins[out] = (made, normed or bool(norm))

    def meet(self, branch: Any, other: Any) -> None:
        """`branch` and `other` are summed: note the shortcut if `branch` comes from a contraction."""
        if not (isinstance(branch, Tensor) and isinstance(other, Tensor) and branch.shape == other.shape):
            return
        origin, made = self._origins.get(branch), self._made.get(other)
        if origin is not None and made is not None and made[1] < origin[0].position:
            origin[0].shortcut = made[0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and apply its rule to the labels."""
        kwargs = kwargs or {}
        for tensor in tensors_of((args, kwargs)):
            origin = self._origins.get(tensor)
            if origin is not None and not origin[1]:
                origin[0].readers += 1
        name = func.overloadpacket.__name__
        done = Call(func, name, args, kwargs, func(*args, **kwargs))
        self._rule(self, done)
        for tensor in tensors_of(done.out):
            self._made[tensor] = (Address(name, self._calls[name]), self._position)
        self._calls[name] += 1
        self._position += 1
        return done.out

    @contextmanager
    def following_modules(self) -> Iterator[None]:
        """Know the running module by global hooks, which are gone afterwards."""
        enter = register_module_forward_pre_hook(
            lambda module, _: self._stack.append(self._modules.get(module, self._stack[-1]))
        )
        leave = register_module_forward_hook(lambda *_: self._leave(), always_call=True)
        try:
            yield
        finally:
            enter.remove()
            leave.remove()

    def _leave(self) -> None:
        self._stack.pop()


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


def watch(model: nn.Module, batch: Batch, rule: Callable[[Trace, Call], None]) -> Trace:
    """Run `model` once on `batch` in eval mode and return the record; the model is left as it was.

    The labels that reach the network's output are locked.

    Raises:
        UnsupportedModel: If the model returns no tensor.
    """
    trace, inputs = Trace(model, rule), copy.deepcopy(batch)  # the network may write into its inputs
    stored = torch.autocast(place_of(model)[0].type, enabled=False)  # weights as they are stored, not copies
    with undisturbed(model), attention_unfused(), stored, trace.following_modules():
        with trace:
            out = call(model, inputs)
        outputs = list(tensors_of(out))
    if not outputs:
        raise UnsupportedModel(
            f"{type(model).__name__} returns no tensor ({type(out).__name__}); wrap it in a module that returns a "
            "tensor, a tuple, a list, a dict or an object with tensors as attributes"
        )
    for tensor in outputs:
        trace.lock(trace.planes(tensor), "output", "it is an output of the network and stays whole")
    return trace
