"""Which weights of a network can be masked, in the types that scores are computed in."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from scionet.errors import InvalidSetting, UnsupportedModel
from scionet.network.discovery.discover import Ignored, ignored_tensors
from scionet.torch_internals import ConvolutionBase, own_parameters

KINDS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("weight",)),
    (ConvolutionBase, ("weight",)),
    (nn.Bilinear, ("weight",)),
    (nn.MultiheadAttention, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
)
"""Modules whose weights are masked. Biases, normalisation layers and embeddings are left alone."""


def maskable(model: nn.Module, ignored_layers: Ignored = ()) -> dict[str, Tensor]:
    """Weights of linear maps and convolutions by name, detached, in the order of the modules; tied ones once.

    Args:
        model: The network; frozen parameters make no difference.
        ignored_layers: Layers that stay whole: names, globs, types or modules.

    Raises:
        UnsupportedModel: If there are none, or one has no values, integers, NaN or infinite values.
        InvalidSetting: If an ignored layer is not there.
    """
    ignored = ignored_tensors(model, ignored_layers) if ignored_layers else frozenset()
    found = {name: weight.detach() for name, _, _, weight in _weights(model) if name not in ignored}
    _refuse_useless(model, found, ignored)
    return found


def alike(model: nn.Module, names: Iterable[str]) -> list[list[str]]:
    """Maskable weights in groups of equal role and shape, in the order of `names`.

    A role is the type of the module, the weight's place in it, and the number of its groups.

    Source: Fang et al., *Isomorphic Pruning for Vision Models*, ECCV 2024, which groups channels by the graph of the
    layers that they go through. Differs in that single weights go through one layer, and that shapes count.
    """
    roles: dict[str, Any] = {}
    for name, module, key, weight in _weights(model):
        roles.setdefault(name, (type(module), key, getattr(module, "groups", 1), weight.shape))
    groups: dict[Any, list[str]] = {}
    for name in names:
        groups.setdefault(roles[name], []).append(name)
    return [*groups.values()]


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Name, module, place in it and tensor of every weight of a linear map or convolution, where it stands."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in model.modules():
        for key in next((keys for kind, keys in KINDS if isinstance(module, kind)), ()):
            parameter = own_parameters(module).get(key)
            if parameter is not None:
                yield names[id(parameter)], module, key, parameter


def wide(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Copies of floating-point tensors in this type or a wider one; others as they are."""
    return {
        name: tensor.detach().to(torch.promote_types(tensor.dtype, dtype)) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def wide_state(model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """All parameters and buffers, tied ones once, as functional calls take them; see `wide`."""
    return wide({**dict(model.named_parameters()), **dict(model.named_buffers())}, dtype)


def _refuse_useless(model: nn.Module, weights: Mapping[str, Tensor], ignored: frozenset[str]) -> None:
    """Check that there is something to mask.

    Raises:
        UnsupportedModel: If there is not.
        InvalidSetting: If all of it is ignored.
    """
    if not weights and ignored:
        raise InvalidSetting("ignored_layers names every linear map and convolution; leave some of them to be masked")
    if not weights:
        given = sorted({type(module).__name__ for module in model.modules()})
        parametrized = [name for name, module in model.named_modules() if parametrize.is_parametrized(module)]
        advice = (
            f"the weights of {', '.join(map(repr, parametrized[:4]))} are parametrized: take masks away with "
            "detach_masks_, others with torch.nn.utils.parametrize.remove_parametrizations"
            if parametrized
            else "weights of quantised layers are packed integers: mask the network before it is quantised"
        )
        raise UnsupportedModel(
            f"the network has no parameter of a linear map or a convolution to mask; its modules are "
            f"{', '.join(given[:12])}. Mask networks of nn.Linear and nn.Conv; {advice}"
        )
    for name, weight in weights.items():
        if weight.is_meta:
            raise UnsupportedModel(f"{name!r} is on the device 'meta' and has no values; load its weights first")
        if not weight.is_floating_point():
            raise UnsupportedModel(
                f"{name!r} holds {weight.dtype}: scores need floating-point weights; mask before quantising"
            )
        if not bool(torch.isfinite(weight).all()):
            raise UnsupportedModel(f"{name!r} holds NaN or infinite values; mask a network that works")
