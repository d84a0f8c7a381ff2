"""Synaptic flow R: the summed output of a network with absolute weights for an input of ones.

R = 1ᵀ (∏ |W_l|) 1, in float64. The scores θ ∂R/∂θ are conserved only in a positively homogeneous network. Biases and
running means are therefore set to 0, and inhomogeneous functions are replaced; see `scionet.masks.homogeneous`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from scionet.errors import PruneError, UnsupportedModel
from scionet.masks.gradients import Functional, Weights
from scionet.masks.homogeneous import Homogeneous
from scionet.masks.weights import upcast
from scionet.network.calling import Batch, first_of, tensors_of
from scionet.network.network import Network
from scionet.torch_internals import tree_map

ZEROED = ("bias", "running_mean")
"""Suffixes of the names of additive tensors."""


def synaptic_flow(model: nn.Module, example_inputs: Batch) -> Functional:
    """R as a function of the nonnegative magnitudes of the weights.

    Args:
        model: The network; not modified.
        example_inputs: Inputs of the network. Only the values of integer inputs (tokens) matter.

    Raises:
        UnsupportedModel: When R is evaluated: if the network does not run in this way, or R is not finite.
    """
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    network = Network(model)
    inputs = _ones(example_inputs, network.device)

    def flow(weights: Weights) -> Tensor:
        rest = upcast({name: tensor for name, tensor in state.items() if name not in weights}, torch.float64)
        tensors = {name: _magnitude(name, tensor) for name, tensor in rest.items()}
        tensors |= {name: weight.double() for name, weight in weights.items()}
        grad = torch.is_grad_enabled()
        with network.as_plain_operations(), torch.set_grad_enabled(grad), Homogeneous():
            try:
                outputs = network.returned(inputs, tensors)
            except PruneError:
                raise
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                raise UnsupportedModel(
                    f"{type(model).__name__} does not run on float64 inputs of ones with homogeneous layers "
                    f"({type(error).__name__}: {error}); use a score with data, such as 'snip', or 'magnitude'"
                ) from error
        return _finite(next(t for t in tensors_of(outputs) if t.is_floating_point()).double().sum())

    return flow


def _magnitude(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return torch.zeros_like(tensor) if name.endswith(ZEROED) else tensor.abs()


def _ones(inputs: Batch, device: torch.device) -> Batch:
    """One example, with floating-point inputs replaced by ones; integers stay."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return (
            torch.ones_like(leaf, dtype=torch.float64, device=device) if leaf.is_floating_point() else leaf.to(device)
        )

    return tree_map(one, first_of(inputs, 1))


def _finite(flow: Tensor) -> Tensor:
    """Return the flow.

    Raises:
        UnsupportedModel: If the flow is NaN or infinite.
    """
    if not bool(torch.isfinite(flow)):
        raise UnsupportedModel(
            f"the synaptic flow is {float(flow)}, outside the range of float64 (about 1e308); divide the weights of "
            "the first layer by a constant (which changes no ranking), or use another score, such as 'magnitude'"
        )
    return flow
