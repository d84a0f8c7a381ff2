"""Optimisers: made from a recipe, checked against their network, and their memory as tensors by name."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.errors import CheckpointError, TrainingError
from scionet.training.recipes import Recipe

Memory = Mapping[str, Mapping[str, Tensor]]
"""What an optimiser remembers: tensors such as ``momentum_buffer``, by the name of their parameter."""


def build(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The optimiser of a recipe, over all parameters that require gradients.

    Raises:
        TrainingError: If there are none.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise TrainingError(f"no parameter of {type(network).__name__} requires gradients; unfreeze what is to learn")
    spared = [p for p in trained if p.ndim <= 1 and not recipe.decay_vectors]
    others = [p for p in trained if p.ndim > 1 or recipe.decay_vectors]
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((others, recipe.weight_decay), (spared, 0.0))
        if parameters
    ]
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)


def refuse_stale(optimizer: Optimizer, network: nn.Module) -> None:
    """Refuse an optimiser that would change other tensors than the network's, which goes unnoticed otherwise.

    Raises:
        TrainingError: If it holds a tensor that is no parameter of the network, or none that is.
    """
    own = {id(parameter) for parameter in network.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strange = [parameter for parameter in held if id(parameter) not in own]
    if strange or not held:
        shapes = ", ".join(str(tuple(parameter.shape)) for parameter in strange[:4])
        raise TrainingError(
            f"stale optimiser: {len(strange)} of its {len(held)} tensors ({shapes}, ...) are no parameters of this "
            f"{type(network).__name__}. A cut network has parameters of its own: make the optimiser anew, or carry "
            "the old one over with cut_optimizer_"
        )


def memory_of(optimizer: Optimizer, network: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What an optimiser remembers of each parameter, not copied.

    Raises:
        TrainingError: If it remembers something that is neither tensor, number nor None.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        names[id(parameter)]: {key: _tensor(key, value) for key, value in kept.items() if value is not None}
        for parameter, kept in optimizer.state.items()
    }


def remember(optimizer: Optimizer, network: nn.Module, memory: Memory) -> None:
    """Give an optimiser the memory of another one.

    What has the shape of its parameter goes to the parameter's device and takes its memory format, so that the next
    step is the one that would have followed, bit for bit.

    Raises:
        CheckpointError: If the memory is of other parameters.
    """
    parameters = dict(network.named_parameters())
    if strange := memory.keys() - parameters.keys():
        raise CheckpointError(f"the optimiser's memory is of another network: it has {', '.join(sorted(strange)[:4])}")
    optimizer.state.clear()
    for name, kept in memory.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: _placed(value, parameter) for key, value in kept.items()}


def _tensor(key: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int | float):
        return torch.tensor(value)
    raise TrainingError(f"the optimiser remembers {key!r}, a {type(value).__name__}; only tensors can be kept")


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
