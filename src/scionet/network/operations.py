"""The tensor operations of a forward pass: which ones run, in which module, on which weights, at how many MACs."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from scionet.network.calling import Batch, tensors_of
from scionet.network.network import Network
from scionet.torch_internals import DispatchMode, flop_registry, tree_leaves

_FLOPS_PER_MAC = 2


Signature = tuple[str, str, tuple[str, ...], tuple[int, ...]]
"""Operator, module, names of the weights, and whole numbers among the arguments of an operation."""


@dataclass(frozen=True)
class RunOperation:
    """One tensor operation of a forward pass.

    Attributes:
        operator: Its name without namespace and overload.
        module: Path of the innermost module that ran it; empty for the network itself.
        weights: Names of the parameters and buffers among its arguments.
        numbers: Whole numbers among its arguments, such as dimensions, sizes and strides.
        place: Where it is counted; see `counting_place`.
        macs: Multiply-accumulates of the call, for all examples together; None for operators that are not counted.
    """

    operator: str
    module: str
    weights: tuple[str, ...]
    numbers: tuple[int, ...]
    place: str
    macs: float | None

    @property
    def signature(self) -> Signature:
        """See `Signature`."""
        return self.operator, self.module, self.weights, self.numbers


class CallListener(Protocol):
    """What is told of every call of a module."""

    def entered(self, args: Sequence[Any]) -> None:
        """A module is called with these positional arguments."""
        ...

    def left(self, path: str, args: Sequence[Any], out: Any) -> None:
        """The module of this path was called, and returned something; None after an error."""
        ...


class ModulePath:
    """The path of the innermost module that runs.

    Args:
        network: The network.
        listener: What is told of every call, if anything is.
    """

    def __init__(self, network: Network, listener: CallListener | None = None) -> None:
        self._names = {module: name for name, module in network.model.named_modules()}
        self._stack = [""]
        self._listener = listener

    @property
    def current(self) -> str:
        """The path; empty for the network itself."""
        return self._stack[-1]

    @property
    def running(self) -> tuple[str, ...]:
        """The paths of all modules that run, the outermost first."""
        return tuple(self._stack[1:])

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow the modules that run, by global hooks that are removed on leaving.

        Hooks on the modules themselves would change the model while it runs. Global ones also run in other threads,
        where the caller may be using other networks, or this one.
        """
        own = get_ident()

        def follow(module: nn.Module, args: Any) -> None:
            if get_ident() == own:
                self._stack.append(self._names.get(module, self.current))
                if self._listener is not None:
                    self._listener.entered(args)

        def leave_module(_module: nn.Module, args: Any, out: Any) -> None:
            if get_ident() == own:
                path = self._stack.pop()
                if self._listener is not None:
                    self._listener.left(path, args, out)

        enter = register_module_forward_pre_hook(follow)
        leave = register_module_forward_hook(leave_module, always_call=True)
        try:
            yield
        finally:
            enter.remove()
            leave.remove()


def macs_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> float | None:
    """Multiply-accumulates of a call as torch's own counter counts them; None for operators that it leaves out."""
    count = flop_registry.get(func.overloadpacket)
    return count(*args, **kwargs, out_val=out) / _FLOPS_PER_MAC if count else None


def counting_place(module: str, weights: Mapping[str, Tensor]) -> str:
    """Where an operation is counted: the largest-dimensional parameter that it reads, or else its module's path.

    The same in the dense, the masked and the cut network.

    Args:
        module: Path of the module that runs the operation.
        weights: The parameters and buffers among its arguments.
    """
    return max(weights, key=lambda name: weights[name].ndim, default=module)


def run_operations(
    network: Network, batch: Batch, tensors: Mapping[str, Tensor] | None = None
) -> tuple[RunOperation, ...]:
    """The operations of one forward pass in evaluation mode, in their order. Network and batch are left as they were.

    Args:
        network: The network.
        batch: What it is called on.
        tensors: Tensors that take the place of its own.
    """
    log, inputs = _OperationLog(network, tensors or {}), copy.deepcopy(network.placed(batch))
    with network.as_plain_operations(), log.path.followed(), log:
        network.returned(inputs, tensors)
    return tuple(log.operations)


def macs_by_place(operations: Sequence[RunOperation]) -> dict[str, float]:
    """MACs of a pass, for all its examples together, by the place where they are counted."""
    macs: dict[str, float] = {}
    for operation in operations:
        if operation.macs:
            macs[operation.place] = macs.get(operation.place, 0.0) + operation.macs
    return macs


class _OperationLog(DispatchMode):
    """The operations that run while the mode is active."""

    def __init__(self, network: Network, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.operations: list[RunOperation] = []
        self.path = ModulePath(network)
        self._names = network.names_by_address | {tensor.data_ptr(): name for name, tensor in tensors.items()}
        self._held = network, tensors  # no other tensor gets their addresses during the pass

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note it down."""
        kwargs = kwargs or {}
        if func.overloadpacket not in flop_registry:
            with self:  # in inference mode, operators arrive that consist of others
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        found = ((self._names.get(tensor.data_ptr()), tensor) for tensor in tensors_of((args, kwargs)))
        weights = {name: tensor for name, tensor in found if name is not None}
        module = self.path.current
        self.operations.append(
            RunOperation(
                func.overloadpacket.__name__,
                module,
                tuple(weights),
                tuple(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, int)),
                counting_place(module, weights),
                macs_of(func, args, kwargs, out),
            )
        )
        return out
