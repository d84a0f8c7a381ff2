"""Optimisers: built from a recipe, checked against their network, their state as tensors by parameter."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.errors import CheckpointError, InvalidSetting, TrainingError, unknown
from scionet.training.grda import GRDA
from scionet.training.recipes import Recipe

OPTIMISERS: Mapping[str, type[Optimizer]] = {
    **{
        kind.__name__.lower(): kind
        for kind in (
            *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam),
            *(torch.optim.RAdam, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.RMSprop, torch.optim.Rprop),
            torch.optim.ASGD,
        )
    },
    "grda": GRDA,
}
"""The optimisers of recipes by name."""

_NO_SETTINGS = ("params", "lr", "weight_decay", "foreach", "fused", "capturable", "differentiable")
"""Arguments that a recipe sets by other names, and those that do not change what is learnt."""

Memory = Mapping[str, Mapping[str, Tensor]]
"""State of an optimiser: tensors such as ``momentum_buffer``, by the name of their parameter."""


def build(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The optimiser of a recipe, for all parameters that require gradients.

    Raises:
        InvalidSetting: If the optimiser has no such hyperparameter, or refuses a value.
        TrainingError: If no parameter requires gradients.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise TrainingError(
            f"no parameter of {type(network).__name__} requires gradients; set requires_grad of those to train"
        )
    undecayed = [p for p in trained if p.ndim <= 1 and not recipe.decay_vectors]
    decayed = [p for p in trained if p.ndim > 1 or recipe.decay_vectors]
    left_alone = {"weight_decay": 0.0, **({"c": 0.0} if recipe.optimiser == "grda" else {})}
    return _made(
        [
            {"params": parameters, **own}
            for parameters, own in ((decayed, {"weight_decay": recipe.weight_decay}), (undecayed, left_alone))
            if parameters
        ],
        recipe,
    )


def _made(groups: list[dict[str, Any]], recipe: Recipe) -> Optimizer:
    """The optimiser of a recipe for groups of parameters.

    Raises:
        InvalidSetting: If it has no such hyperparameter, needs one that is not given, or refuses a value.
    """
    kind, own = OPTIMISERS[recipe.optimiser], _own_hyperparameters(recipe)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in (*_NO_SETTINGS, *own)
    }
    for name in recipe.optimiser_settings:
        if name not in parameters:
            raise unknown(f"hyperparameter of {recipe.optimiser} in optimiser_settings", name, parameters)
    if recipe.weight_decay and "weight_decay" not in inspect.signature(kind).parameters:
        raise InvalidSetting(
            f"{recipe.optimiser} has no weight decay; set weight_decay to 0 (it is {recipe.weight_decay:g})"
        )
    needed = [name for name, each in parameters.items() if each.default is inspect.Parameter.empty]
    if missing := [name for name in needed if name not in recipe.optimiser_settings]:
        raise InvalidSetting(
            f"{recipe.optimiser} needs {', '.join(missing)}; set optimiser_settings={{{missing[0]!r}: ...}}"
        )
    try:
        return kind(groups, lr=recipe.learning_rate, **own, **recipe.optimiser_settings)  # type: ignore[call-arg]
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        given = dict(recipe.optimiser_settings)
        raise InvalidSetting(f"{recipe.optimiser} refuses the optimiser_settings {given}: {error}") from error


def _own_hyperparameters(recipe: Recipe) -> dict[str, Any]:
    """Hyperparameters of the optimiser that have settings of their own in a recipe."""
    return {"momentum": recipe.momentum, "nesterov": recipe.nesterov} if recipe.optimiser == "sgd" else {}


def refuse_unfit(optimizer: Optimizer, network: nn.Module, recipe: Recipe) -> None:
    """Refuse an optimiser that `fit` cannot use.

    Raises:
        InvalidSetting: If it is gRDA and weights are averaged, or its step needs a closure.
        TrainingError: If it is of another network.
    """
    refuse_stale(optimizer, network)
    if isinstance(optimizer, GRDA) and recipe.average_decay is not None:
        raise InvalidSetting(
            f"average_decay ({recipe.average_decay}) cannot be combined with gRDA: an average of sparse weights is not "
            "sparse; leave it out"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InvalidSetting(f"{type(optimizer).__name__} needs a closure in each step, which fit does not have")


def refuse_stale(optimizer: Optimizer, network: nn.Module) -> None:
    """Refuse an optimiser of another network, which would change tensors that this network does not use.

    Raises:
        TrainingError: If it holds a tensor that is not a parameter of the network, or holds no tensor.
    """
    own = {id(parameter) for parameter in network.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    foreign = [parameter for parameter in held if id(parameter) not in own]
    if foreign or not held:
        shapes = ", ".join(str(tuple(parameter.shape)) for parameter in foreign[:4])
        raise TrainingError(
            f"stale optimiser: {len(foreign)} of its {len(held)} tensors ({shapes}, ...) are no parameters of this "
            f"{type(network).__name__}. A cut network has new parameters: create a new optimiser, or carry the old one "
            "over with cut_optimizer_"
        )


def memory_of(optimizer: Optimizer, network: nn.Module) -> dict[str, dict[str, Tensor]]:
    """State of an optimiser by parameter, not copied.

    Raises:
        TrainingError: If it holds something that is neither a tensor, a number nor None.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        names[id(parameter)]: {key: _tensor(key, value) for key, value in kept.items() if value is not None}
        for parameter, kept in optimizer.state.items()
    }


def load_memory(optimizer: Optimizer, network: nn.Module, memory: Memory) -> None:
    """Replace the state of an optimiser.

    A tensor that has the shape of its parameter gets the parameter's device and memory format, so that the next step is
    the same bit for bit.

    Raises:
        CheckpointError: If the state is of other parameters.
    """
    parameters = dict(network.named_parameters())
    if unknown := memory.keys() - parameters.keys():
        raise CheckpointError(
            f"the optimiser's state is of another network, with parameters {', '.join(sorted(unknown)[:4])}; give a "
            "state of this one"
        )
    optimizer.state.clear()
    for name, kept in memory.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: _placed(value, parameter) for key, value in kept.items()}


def refuse_damaged(memory: Memory, network: nn.Module, recipe: Recipe) -> None:
    """Refuse a state that the optimiser of a recipe cannot have had.

    Raises:
        CheckpointError: If an entry is missing, extra or of another shape or kind.
    """
    entries = _entries(recipe)
    for name, kept in memory.items():
        forms = {key: form(value) for key, value in kept.items()}
        own = form(network.get_parameter(name))
        if forms and forms != {key: own if like is None else like for key, like in entries.items()}:
            raise CheckpointError(f"the state of the optimiser is damaged: of {name} it holds {forms}; start again")


def _entries(recipe: Recipe) -> dict[str, str | None]:
    """What the optimiser of a recipe holds for each parameter: forms of numbers, None for the parameter's own form."""
    parameter = nn.Parameter(torch.zeros(2, 3))
    optimizer = _made([{"params": [parameter]}], recipe)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = {key: value for key, value in optimizer.state[parameter].items() if value is not None}
    return {
        key: None if value.shape == parameter.shape else form(value)
        for key, value in ((key, _tensor(key, value)) for key, value in kept.items())
    }


def form(tensor: Tensor) -> str:
    """The shape of a tensor and, unless it is of floating-point numbers, its type."""
    return f"{tuple(tensor.shape)}" + ("" if tensor.is_floating_point() else f" {tensor.dtype}")


def _tensor(key: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int | float):
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    raise TrainingError(
        f"the optimiser's state holds {key!r}, a {type(value).__name__}; only tensors and numbers are saved"
    )


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
