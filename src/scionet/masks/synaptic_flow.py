"""Synaptic flow: what reaches the output of a network of absolute weights from an input of ones.

R = 1ᵀ (∏ |W_l|) 1, in float64. So that the scores θ ∂R/∂θ are conserved, the network must be positively homogeneous:
biases and running means are 0, and what is not homogeneous is replaced; see `scionet.masks.homogeneous`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from scionet.errors import PruneError, UnsupportedModel
from scionet.masks.gradients import Functional, Weights
from scionet.masks.homogeneous import Homogeneous
from scionet.masks.weights import wide
from scionet.network.calling import Batch, as_arguments, attention_unfused, first_of, place_of, tensors_of, undisturbed
from scionet.torch_internals import tree_map

ZEROED = ("bias", "running_mean")
"""How the names of tensors end that would be added."""


def synaptic_flow(model: nn.Module, example_inputs: Batch) -> Functional:
    """R as a function of the weights' magnitudes, which are 0 or more.

    Args:
        model: The network, which keeps its tensors and flags.
        example_inputs: What it is called on; of the values only those of integers (tokens) matter.

    Raises:
        UnsupportedModel: When R is asked for: if the network does not run in this way, or R is not finite.
    """
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    args, kwargs = as_arguments(_ones(example_inputs, model))

    def flow(weights: Weights) -> Tensor:
        rest = wide({name: tensor for name, tensor in state.items() if name not in weights}, torch.float64)
        tensors = {name: _magnitude(name, tensor) for name, tensor in rest.items()}
        tensors |= {name: weight.double() for name, weight in weights.items()}
        grad = torch.is_grad_enabled()
        with undisturbed(model), attention_unfused(), torch.set_grad_enabled(grad), Homogeneous():
            try:
                outputs = functional_call(model, tensors, args, kwargs)
            except PruneError:
                raise
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                raise UnsupportedModel(
                    f"{type(model).__name__} does not run on float64 inputs of ones with homogeneous layers "
                    f"({type(error).__name__}: {error}); choose a score with data, such as 'snip', or 'magnitude'"
                ) from error
        return _finite(next(t for t in tensors_of(outputs) if t.is_floating_point()).double().sum())

    return flow


def _magnitude(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return torch.zeros_like(tensor) if name.endswith(ZEROED) else tensor.abs()


def _ones(inputs: Batch, model: nn.Module) -> Batch:
    """One example: ones for floating-point numbers, integers as they are."""
    device = place_of(model)[0]

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return (
            torch.ones_like(leaf, dtype=torch.float64, device=device) if leaf.is_floating_point() else leaf.to(device)
        )

    return tree_map(one, first_of(inputs, 1))


def _finite(flow: Tensor) -> Tensor:
    """The flow itself.

    Raises:
        UnsupportedModel: If it is NaN or infinite.
    """
    if not bool(torch.isfinite(flow)):
        raise UnsupportedModel(
            f"the synaptic flow is {float(flow)}: it leaves the range of float64, about 1e308; divide the weights of "
            "the stem by a constant (which changes no ranking), or choose another score, such as 'magnitude'"
        )
    return flow
