"""Optimisers: built from a recipe, checked against their network, their state as tensors by parameter."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.errors import CheckpointError, TrainingError
from scionet.training.recipes import Recipe

_ENTRIES = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq")}
"""What the optimisers of recipes hold for each parameter."""

Memory = Mapping[str, Mapping[str, Tensor]]
"""State of an optimiser: tensors such as ``momentum_buffer``, by the name of their parameter."""


def build(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The optimiser of a recipe, for all parameters that require gradients.

    Raises:
        TrainingError: If no parameter requires gradients.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise TrainingError(
            f"no parameter of {type(network).__name__} requires gradients; set requires_grad of those to train"
        )
    undecayed = [p for p in trained if p.ndim <= 1 and not recipe.decay_vectors]
    decayed = [p for p in trained if p.ndim > 1 or recipe.decay_vectors]
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decayed, recipe.weight_decay), (undecayed, 0.0))
        if parameters
    ]
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)


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
    for name, kept in memory.items():
        forms = {key: form(value) for key, value in kept.items()}
        wanted = dict.fromkeys(_ENTRIES[recipe.optimiser], form(network.get_parameter(name)))
        if forms and forms != {**wanted, **({"step": "()"} if "step" in wanted else {})}:
            raise CheckpointError(f"the state of the optimiser is damaged: of {name} it holds {forms}; start again")


def form(tensor: Tensor) -> str:
    """The shape of a tensor and, unless it is of floating-point numbers, its type."""
    return f"{tuple(tensor.shape)}" + ("" if tensor.is_floating_point() else f" {tensor.dtype}")


def _tensor(key: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int | float):
        return torch.tensor(value)
    raise TrainingError(
        f"the optimiser's state holds {key!r}, a {type(value).__name__}; only tensors and numbers are saved"
    )


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
