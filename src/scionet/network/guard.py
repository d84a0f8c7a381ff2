"""The caller's network stays as it was: what its modules hold is put back, whatever a forward pass did to it."""

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from scionet.errors import UnsupportedModel
from scionet.modes import alone, at_work
from scionet.torch_internals import is_traceable_wrapper_subclass, own_buffers, own_parameters

P = ParamSpec("P")
R = TypeVar("R")

_guarded: set[int] = set()
"""Ids of the networks that `untouched` puts back at present; changed by one thread at a time."""


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of the functions that users call: plain modes, one thread at a time, and networks left as they were.

    Each network among the arguments is left bit for bit as it was, also where the function raises.

    Raises:
        UnsupportedMode: If a mode is on that changes what torch's operations do.
        UnsupportedModel: If a network is not ready to run.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        networks = [value for value in (*args, *kwargs.values()) if isinstance(value, nn.Module)]
        with at_work(), untouched(*networks):
            return function(*args, **kwargs)

    return call


@contextmanager
def untouched(*networks: nn.Module, apart_from: nn.Module | None = None) -> Iterator[None]:
    """Leave networks bit for bit as they were: weights, buffers, modes, hooks, gradients, and tensors in attributes.

    Attributes are looked into where they are dicts, lists or sets. What holds no tensors, such as a network's own count
    of its calls, is the network's business and stays as its forward passes leave it.

    Args:
        networks: The networks.
        apart_from: A network that is to change: modules and tensors that it shares with the others are left alone.

    Raises:
        UnsupportedModel: If a network is not ready to run.
    """
    with alone():
        new = [network for network in networks if id(network) not in _guarded]
        for network in new:
            refuse_unready(network)
        _guarded.update(map(id, new))
        try:
            with put_back(new, weights=True, apart_from=apart_from):
                yield
        finally:
            _guarded.difference_update(map(id, new))


def refuse_unready(network: nn.Module) -> None:
    """Refuse a network whose tensors are not ordinary tensors yet, or no longer.

    Raises:
        UnsupportedModel: If a lazy module has never run, or a tensor was made in inference mode.
    """
    for prefix, module in network.named_modules():
        for key, tensor in (*own_parameters(module).items(), *own_buffers(module).items()):
            if tensor is None:
                continue
            name = f"{prefix}.{key}" if prefix else key
            if is_lazy(tensor):
                raise UnsupportedModel(
                    f"{name!r} of {type(module).__name__} has no shape yet, since the lazy module has never run; call "
                    "the network once on its inputs, and load its weights, before you give it to scionet"
                )
            if tensor.is_inference():
                raise UnsupportedModel(
                    f"{name!r} is an inference tensor, which torch lets nobody change or differentiate; build or load "
                    "the network outside torch.inference_mode(), or give copy.deepcopy(model), made outside"
                )


@contextmanager
def put_back(networks: Iterable[nn.Module], *, weights: bool, apart_from: nn.Module | None = None) -> Iterator[None]:
    """On leaving, the modules of networks hold what they held on entering.

    Args:
        networks: The networks.
        weights: Whether the contents of parameters, too, are kept and put back, which takes a copy of them. Otherwise
            those of buffers and of tensors in attributes alone.
        apart_from: Modules and tensors of this network are left alone.
    """
    excluded = set() if apart_from is None else {*apart_from.modules()}
    foreign = {id(tensor) for module in excluded for tensor in _Held.by(module).tensors}
    modules = dict.fromkeys(module for network in networks for module in network.modules() if module not in excluded)
    held = [_Held.by(module) for module in modules]
    tensors = {id(tensor): tensor for each in held for tensor in each.tensors if id(tensor) not in foreign}
    known = [_Tensor.of(each) for each in tensors.values() if weights or not isinstance(each, nn.Parameter)]
    memories = _memories(part for each in known for part in each.parts)
    try:
        yield
    finally:
        for each in (*held, *known):
            each.put_back()
        for memory, content in memories:
            if not torch.equal(memory, content):  # what nobody wrote to, such as a mapped file, is not written here
                memory.copy_(content)


@dataclass(frozen=True, eq=False)
class _Held:
    """The attributes of a module, and the entries of those that are dicts, lists or sets."""

    attributes: dict[str, Any]
    entries: dict[str, Any]
    containers: tuple[tuple[str, Any, Any], ...]

    @classmethod
    def by(cls, module: nn.Module) -> "_Held":
        """What a module holds now."""
        entries = dict(vars(module))
        containers = tuple(
            (name, value, _copied(value) if value else ())  # most registries are empty
            for name, value in entries.items()
            if isinstance(value, (dict, list, set))
        )
        return cls(vars(module), entries, containers)

    @property
    def tensors(self) -> list[Tensor]:
        """Parameters, buffers, and tensors in attributes."""
        parts = (self.entries, *(entries for _, _, entries in self.containers if entries))
        return [value for part in parts for value in _values(part) if isinstance(value, Tensor)]

    def put_back(self) -> None:
        """Write what has changed of torch's registries and flags, and of attributes that hold or held tensors."""
        for name in () if _same(self.attributes, self.entries) else {**self.entries, **self.attributes}:
            old, new = self.entries.get(name, _NOTHING), self.attributes.get(name, _NOTHING)
            if old is not new and (name in _OWN or _holds_tensors(old) or _holds_tensors(new)):
                self.attributes.pop(name) if old is _NOTHING else self.attributes.update({name: old})
        for name, container, entries in self.containers:
            if not _same(container, entries) and (name in _OWN or _holds_tensors(container) or _holds_tensors(entries)):
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(entries)


_NOTHING = object()
"""In place of an attribute that a module does not have."""
_OWN = frozenset(vars(nn.Module()))
"""The attributes that torch gives every module: registries, hooks, the mode."""


def _values(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _holds_tensors(value: Any) -> bool:
    """Whether a value is a tensor, or a dict, list or set with one."""
    if isinstance(value, dict | list | set):
        return any(isinstance(item, Tensor) for item in _values(value))
    return isinstance(value, Tensor)


def _copied(container: Any) -> Any:
    """A plain dict, list or set of the same entries."""
    if isinstance(container, dict):
        return dict(container)
    return list(container) if isinstance(container, list) else set(container)


def _same(container: Any, entries: Any) -> bool:
    """Whether a container has these very objects, in this order; a set, whether it equals."""
    if not container or not entries:
        return not container and not entries
    if isinstance(container, set):
        return container == entries
    if isinstance(container, dict) and list(container) != list(entries):
        return False
    return len(container) == len(entries) and all(map(operator.is_, _values(container), _values(entries)))


@dataclass(frozen=True, eq=False)
class _Tensor:
    """What a tensor is besides the contents of its memory: which memory it shows and how, its flag and its gradient."""

    tensor: Tensor
    alias: Tensor
    requires_grad: bool
    gradient: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor) -> "_Tensor":
        """That of a tensor now."""
        return cls(tensor, tensor.detach(), tensor.requires_grad, tensor.grad if tensor.is_leaf else None)

    @property
    def parts(self) -> list[Tensor]:
        """The tensor and its gradient, as they were."""
        return [self.alias] if self.gradient is None else [self.alias, self.gradient]

    def put_back(self) -> None:
        """Write what has changed."""
        if _form(self.tensor) != _form(self.alias):
            self.tensor.data = self.alias
        if not self.tensor.is_leaf:
            return
        if self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        if self.tensor.grad is not self.gradient:
            self.tensor.grad = self.gradient


def _form(tensor: Tensor) -> tuple[Any, ...]:
    """What `tensor.data = other` changes."""
    kind = (tensor.dtype, tensor.device, tensor.layout, tensor.shape)
    return (*kind, tensor.data_ptr(), tensor.stride()) if _has_memory(tensor) else kind


def _has_memory(tensor: Tensor) -> bool:
    """Whether the tensor shows memory of its own: not on meta, sparse, or made of other tensors."""
    return tensor.layout is torch.strided and not tensor.is_meta and not is_traceable_wrapper_subclass(tensor)


def _memories(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The memory of tensors as bytes, each once, and a copy of it."""
    shown = (tensor.untyped_storage() for tensor in tensors if _has_memory(tensor))
    storages = {storage.data_ptr(): storage for storage in shown}
    return [(memory, memory.clone()) for memory in map(bytes_of, storages.values())]


def bytes_of(storage: torch.UntypedStorage) -> Tensor:
    """A storage as a tensor of bytes, which shares its memory."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
