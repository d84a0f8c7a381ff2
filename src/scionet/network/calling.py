"""Calling a network: arguments from batches, eval mode that is undone afterwards, devices and types."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from scionet.errors import CalibrationError
from scionet.modes import alone
from scionet.network.guard import put_back
from scionet.torch_internals import own_buffers, own_parameters, tree_flatten, tree_map

Batch = Tensor | tuple | list | Mapping[str, Any]
"""The inputs of one call: a tensor (one argument), a tuple or list (positional arguments), a mapping (keywords)."""


def call(model: nn.Module, batch: Batch) -> Any:
    """Call `model` on `batch`: a tensor as the only argument, a tuple as positional, a mapping as keyword arguments."""
    args, kwargs = as_arguments(batch)
    return model(*args, **kwargs)


def as_arguments(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments that a batch stands for.

    Raises:
        CalibrationError: If the batch is not a tensor, tuple, list or mapping, or contains no tensor. For whole
            numbers, which look like a shape, the message says what to write.
    """
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping) and any(isinstance(v, Tensor) for v in batch.values()):
        return (), dict(batch)
    if isinstance(batch, tuple | list) and any(isinstance(v, Tensor) for v in batch):
        return tuple(batch), {}
    raise CalibrationError(
        f"a batch must be a tensor, a tuple of arguments or a dict of keyword arguments with at least one tensor; "
        f"given {type(batch).__name__}{_shape_hint(batch)}"
    )


def _shape_hint(batch: Any) -> str:
    """What to write in place of a shape; nothing if it is none."""
    if not isinstance(batch, tuple | list) or not batch or not all(type(size) is int for size in batch):
        return ""
    sizes = ", ".join(map(str, batch if len(batch) in (2, 4) else (1, *batch)))
    return f" {tuple(batch)}, which looks like a shape; write torch.randn({sizes})"


def inputs_like(example: Batch, batch: Any) -> tuple[Batch, Any]:
    """Split a batch of a data loader into inputs of the form of `example` and what follows them (labels, or None).

    Raises:
        CalibrationError: If the batch does not contain such inputs.
    """
    if isinstance(example, Tensor):
        if isinstance(batch, Tensor):
            return batch, None
        if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
            return batch[0], (batch[1] if len(batch) > 1 else None)
    elif isinstance(example, Mapping):
        if isinstance(batch, Mapping) and example.keys() <= batch.keys():
            rest = {key: value for key, value in batch.items() if key not in example}
            return {key: batch[key] for key in example}, rest.get("labels", rest.get("label"))
    elif isinstance(batch, tuple | list) and len(batch) >= len(example):
        return tuple(batch[: len(example)]), (batch[len(example)] if len(batch) > len(example) else None)
    raise CalibrationError(f"a calibration batch must be like example_inputs ({_form(example)}); given {_form(batch)}")


def _form(value: Any) -> str:
    """A short description of a batch for error messages."""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "dict of " + ", ".join(f"{key}: {_form(item)}" for key, item in value.items())
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of ({', '.join(_form(item) for item in value[:4])})"
    return type(value).__name__


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples, mappings and objects with attributes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)
    elif hasattr(value, "__dict__"):
        yield from tensors_of(vars(value))


def example_count(batch: Batch) -> int:
    """Number of examples in a batch: the size of dimension 0 of the first tensor that has dimensions.

    Raises:
        CalibrationError: If no tensor has dimensions.
    """
    args, kwargs = as_arguments(batch)
    sizes = [t.shape[0] for t in tensors_of((args, kwargs)) if t.ndim]
    if not sizes:
        raise CalibrationError("the batch has no tensor with a batch dimension; give inputs of shape (batch, ...)")
    return sizes[0]


def divides(batch: Batch) -> bool:
    """Whether dimension 0 of every tensor of a batch is that of the examples, so that the batch can be divided."""
    size = example_count(batch)
    return all(tensor.ndim and len(tensor) == size for tensor in tensors_of(as_arguments(batch)))


def some_of(batch: Batch, which: slice | Tensor) -> Batch:
    """Some examples of a batch that can be divided, given by a slice or by their indices."""
    return tree_map(lambda value: value[which] if isinstance(value, Tensor) else value, batch)


def first_of(batch: Batch, count: int) -> Batch:
    """The first `count` examples of a batch; the whole batch if it cannot be divided."""
    if example_count(batch) <= count or not divides(batch):
        return batch
    return some_of(batch, slice(count))


def joined(batches: Iterable[Any]) -> list[Any]:
    """The same examples in as few batches as possible.

    Batches of one form (see `form_of`) are concatenated. A batch that cannot be divided is left alone.
    """
    groups: dict[Hashable, list[Any]] = {}
    for number, batch in enumerate(batches):
        groups.setdefault(form_of(batch) if divides(batch) else number, []).append(batch)
    return [concatenated(group) for group in groups.values()]


def form_of(batch: Any) -> Hashable:
    """The key that batches must share for their examples to be mixed.

    It holds the structure; of every tensor the shape of an example, the type and the device; and all that is no tensor.
    """
    leaves, structure = tree_flatten(batch)
    kinds = ((x.shape[1:], x.dtype, x.device) if isinstance(x, Tensor) else repr(x) for x in leaves)
    return str(structure), tuple(kinds)


def concatenated(batches: Sequence[Any]) -> Any:
    """One batch of the examples of several that share a form. What is no tensor is that of the first."""
    if len(batches) == 1:
        return batches[0]
    return tree_map(lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *batches)


def place_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating-point type of a model, read from its first floating-point parameter or buffer."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def plain(tensor: Tensor) -> Tensor:
    """A tensor that takes part in gradients: of no subclass, detached, and not one that inference mode made."""
    tensor = tensor.as_subclass(Tensor).detach()
    return tensor.clone() if tensor.is_inference() else tensor


def to_model(batch: Batch, model: nn.Module) -> Batch:
    """The batch as plain tensors on the model's device, floating-point tensors in the model's type.

    Raises:
        CalibrationError: If it is no batch; see `as_arguments`.
    """
    if isinstance(batch, Tensor):
        return tensors_to_model(batch, model)
    args, kwargs = as_arguments(batch)
    return tensors_to_model(kwargs or args, model)


def tensors_to_model(value: Any, model: nn.Module) -> Any:
    """The same, for all tensors in nested lists, tuples and mappings, which become dicts; others are left alone."""
    device, dtype = place_of(model)

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensor = plain(value)
            return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        if isinstance(value, Mapping):
            return {key: move(item) for key, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(move, value))
        return type(value)(map(move, value)) if type(value) in (list, tuple) else value

    return move(value)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients. On leaving, modules, buffers and random-number state are as before.

    A forward pass can write into a buffer in place, replace it by another tensor, or keep things in attributes; all of
    that is undone. One thread at a time.
    """
    devices = [torch.device(d) for d in {t.device for t in model.parameters()} if d.type == "cuda"]
    with alone(), put_back([model], weights=False), torch.random.fork_rng(devices=devices), torch.no_grad():
        for module in model.modules():
            module.training = False
        yield


@contextmanager
def attention_unfused() -> Iterator[None]:
    """Attention as plain matrix products. One thread at a time, since the setting is that of the process.

    Fused kernels are single operations. Neither torch's counter nor `Trace` can see the products inside them.
    """
    with alone():
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def output_of(module: str) -> str:
    """The name under which a tensor takes the place of what a module returns; see `replaced`."""
    return f"{module}{_CALLED}"


_CALLED = "()"


@contextmanager
def replaced(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Other tensors in place of a model's parameters and buffers; its own are back on leaving. One thread at a time.

    A tensor is replaced wherever modules register it: tied, or in a module that is registered twice.
    `torch.func.functional_call` swaps by names, and does not restore what has two.

    Args:
        model: The model.
        tensors: Tensors by name. Under the name `output_of(module)`, a tensor takes the place of what that module
            returns, to which it is expanded.
    """
    state = state_of(model)
    outputs = {name.removesuffix(_CALLED): tensor for name, tensor in tensors.items() if name.endswith(_CALLED)}
    instead = {id(state[name]): tensor for name, tensor in tensors.items() if not name.endswith(_CALLED)}
    registries = [registry for m in model.modules() for registry in (own_parameters(m), own_buffers(m))]
    places = [(registry, key, old) for registry in registries for key, old in registry.items() if id(old) in instead]
    with alone(), ExitStack() as hooks:
        for path, tensor in outputs.items():
            # First of all hooks: the network's own ones see what they will see in the cut network.
            handle = model.get_submodule(path).register_forward_hook(partial(_in_place_of, tensor), prepend=True)
            hooks.callback(handle.remove)
        try:
            for registry, key, old in places:
                registry[key] = instead[id(old)]  # type: ignore[index]  a plain tensor in place of a parameter
            yield
        finally:
            for registry, key, old in places:
                registry[key] = old  # type: ignore[index]


def _in_place_of(tensor: Tensor, module: nn.Module, args: Any, out: Any) -> Any:
    """A tensor in place of what a module returns, of a tuple in place of the first tensor; other entries are None."""
    found, place = first_tensor(out)
    assert found is not None, f"{type(module).__name__} returns a tensor, or a tuple with one"
    values = tensor.to(found).expand(found.shape).clone()
    return values if place is None else tuple(values if n == place else None for n in range(len(out)))


def first_tensor(out: Any) -> tuple[Tensor | None, int | None]:
    """The tensor that a module returns, or the first in a tuple and its position there; None if there is none."""
    if isinstance(out, Tensor):
        return out, None
    if type(out) is tuple:
        for place, item in enumerate(out):
            if isinstance(item, Tensor):
                return item, place
    return None, None


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by qualified name, including non-persistent buffers and every name of a tied one."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
