"""What the result of a training depends on, as JSON: two trainings with the same identity end alike."""

from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of, tensors_of
from scionet.training.averages import tensors_of_network
from scionet.training.given_loss import Loss
from scionet.training.loading import Collate, Examples, load
from scionet.training.optimisers import Memory, memory_of
from scionet.training.outline import Identified, digest, outline, qualified_name
from scionet.training.recipes import Recipe

_SAMPLED = 8
"""Examples of a data set that are read to identify it."""


def of_examples(data: Examples, collate: Collate[Any]) -> dict[str, Any]:
    """The identity of a data set: its attributes, all that they hold, and some of its examples.

    See `scionet.training.outline.outline` for what is followed. Data with a method ``identity`` say themselves what
    they depend on.
    """
    found, count = outline(data), len(data)
    entries = found if isinstance(found, dict) else {"contents": found}
    chosen = sorted({index * (count - 1) // max(1, _SAMPLED - 1) for index in range(_SAMPLED)})
    read = [tensors_of(batch) for batch in load(data, [[(index, index)] for index in chosen], collate)]
    sampled = {f"{place} {number}": t for place, parts in enumerate(read) for number, t in enumerate(parts)}
    return {"examples": count, **entries, "sampled": hash_tensors(sampled)}


def of_network(network: nn.Module) -> dict[str, Any]:
    """The identity of a network apart from its weights: class and plain attributes of every module, by name."""
    return {name: _of_module(module) for name, module in network.named_modules()}


def of_teacher(teacher: nn.Module) -> dict[str, Any]:
    """The identity of a teacher: its modules and its weights."""
    return {"modules": of_network(teacher), "weights": hash_tensors(state_of(teacher))}


def of_loss(loss: Loss) -> dict[str, Any] | str:
    """The identity of a loss: its name or class, all that it holds, and a digest of the code of its function.

    A loss with a method ``identity`` says itself what identifies it. What the function calls is described by its name.
    """
    if isinstance(loss, str | Identified):
        return outline(loss)
    return {"is": outline(loss), "code": _code(loss)}


def _code(function: Any) -> str:
    """A digest of the compiled code of a function, of what a partial one or a method calls, or of an object's call.

    Unlike the source, it is there in interactive sessions, and tells two lambdas of one line apart. Another version of
    Python may compile the same source to other code.
    """
    while isinstance(function, partial | MethodType):
        function = function.func if isinstance(function, partial) else function.__func__
    if not isinstance(function, FunctionType):
        function = type(function).forward if isinstance(function, nn.Module) else type(function).__call__
    code = getattr(function, "__code__", None)
    return digest(None if code is None else _compiled(code))


def _compiled(code: CodeType) -> list[Any]:
    constants = [_compiled(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return [code.co_code.hex(), code.co_names, constants]


def of_parameters(network: nn.Module, optimizer: Optimizer) -> dict[str, str]:
    """Which group of the optimiser each parameter belongs to, and whether it is frozen."""
    place = {id(p): f"group {number}" for number, g in enumerate(optimizer.param_groups) for p in g["params"]}
    return {
        name: place.get(id(parameter), "in no group") + ("" if parameter.requires_grad else ", frozen")
        for name, parameter in network.named_parameters()
    }


def of_optimiser(optimizer: Optimizer) -> dict[str, Any]:
    """The class of an optimiser, and the hyperparameters of its groups as they are before any schedule.

    An optimiser with a method ``identity`` says itself what else identifies it.
    """
    groups = {
        str(number): {
            **{key: outline(value) for key, value in group.items() if key not in ("params", "initial_lr")},
            "lr": outline(group.get("initial_lr", group["lr"])),
        }
        for number, group in enumerate(optimizer.param_groups)
    }
    more = {"more": outline(optimizer.identity())} if isinstance(optimizer, Identified) else {}
    return {"class": qualified_name(type(optimizer)), "groups": groups, **more}


def of_schedule(recipe: Recipe, per_epoch: int) -> str:
    """A digest of the learning rates of all steps, which a subclass of `Recipe` may compute in its own way."""
    return digest([recipe.rate(step, per_epoch) for step in range(recipe.steps(per_epoch))])


def of_beginning(network: nn.Module, optimizer: Optimizer | None) -> dict[str, str]:
    """Hashes of the weights and of the state of the optimiser with which a training begins."""
    memory = {} if optimizer is None else memory_of(optimizer, network)
    return {"weights": hash_tensors(tensors_of_network(network)), "optimiser_state": hash_memory(memory)}


def hash_memory(memory: Memory) -> str:
    """A hash of the state of an optimiser."""
    return hash_tensors({f"{name}/{key}": tensor for name, kept in memory.items() for key, tensor in kept.items()})


def _of_module(module: nn.Module) -> dict[str, Any]:
    plain = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
    return {"class": qualified_name(type(module)), **{k: outline(v) for k, v in plain.items() if _is_plain(v)}}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
