"""The maskable weights of a network, in the dtypes in which scores are computed."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from scionet.errors import InvalidSetting, UnsupportedModel
from scionet.network.discovery.discover import Ignored, ignored_tensors
from scionet.network.network import Network
from scionet.torch_internals import ConvolutionBase, own_parameters

KINDS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("weight",)),
    (ConvolutionBase, ("weight",)),
    (nn.Bilinear, ("weight",)),
    (nn.MultiheadAttention, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
)
"""Modules whose weights are masked, with the names of these weights."""


def maskable(model: nn.Module, ignored_layers: Ignored = ()) -> dict[str, Tensor]:
    """Weights of linear maps and convolutions by name, detached, in module order. Tied weights are listed once.

    Args:
        model: The network. Frozen parameters are included.
        ignored_layers: Layers to leave whole: names, globs, types or modules.

    Raises:
        UnsupportedModel: If there are none, or one has no values, or integer, NaN or infinite values.
        InvalidSetting: If an ignored layer does not exist.
    """
    ignored = ignored_tensors(Network(model), ignored_layers) if ignored_layers else frozenset()
    found = {name: weight.detach() for name, _, _, weight in _weights(model) if name not in ignored}
    _refuse_useless(model, found, ignored)
    return found


def isomorphic_groups(model: nn.Module, names: Iterable[str]) -> list[list[str]]:
    """Group maskable weights by role and shape, in the order of `names`.

    A role is the type of the module, the weight's name in it, and the module's number of groups.

    Source: Fang et al., *Isomorphic Pruning for Vision Models*, ECCV 2024, who group channels by the graph of the
    layers that they pass through. Differs because a single weight belongs to one layer, and because shapes count.
    """
    roles: dict[str, Any] = {}
    for name, module, key, weight in _weights(model):
        roles.setdefault(name, (type(module), key, getattr(module, "groups", 1), weight.shape))
    groups: dict[Any, list[str]] = {}
    for name in names:
        groups.setdefault(roles[name], []).append(name)
    return [*groups.values()]


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Full name, module, attribute name and tensor of every weight of a linear map or convolution."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in model.modules():
        for key in next((keys for kind, keys in KINDS if isinstance(module, kind)), ()):
            parameter = own_parameters(module).get(key)
            if parameter is not None:
                yield names[id(parameter)], module, key, parameter


def upcast(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Convert floating-point tensors to `dtype`, or keep them if wider; other tensors are unchanged."""
    return {
        name: tensor.detach().to(torch.promote_types(tensor.dtype, dtype)) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def upcast_state(model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """All parameters and buffers for functional calls, tied ones once; see `upcast`."""
    return upcast({**dict(model.named_parameters()), **dict(model.named_buffers())}, dtype)


def _refuse_useless(model: nn.Module, weights: Mapping[str, Tensor], ignored: frozenset[str]) -> None:
    """Check that there are usable weights to mask.

    Raises:
        UnsupportedModel: If there are not.
        InvalidSetting: If all of them are ignored.
    """
    if not weights and ignored:
        raise InvalidSetting("ignored_layers covers every linear map and convolution; nothing is left to mask")
    if not weights:
        given = sorted({type(module).__name__ for module in model.modules()})
        parametrized = [name for name, module in model.named_modules() if parametrize.is_parametrized(module)]
        advice = (
            f"the weights of {', '.join(map(repr, parametrized[:4]))} are parametrized: remove masks with "
            "detach_masks_, other parametrizations with torch.nn.utils.parametrize.remove_parametrizations"
            if parametrized
            else "weights of quantised layers are packed integers: mask the network before quantising it"
        )
        raise UnsupportedModel(
            f"the network has no maskable weights; its modules are {', '.join(given[:12])}. Only weights of nn.Linear "
            f"and nn.Conv can be masked; {advice}"
        )
    for name, weight in weights.items():
        if weight.is_meta:
            raise UnsupportedModel(f"{name!r} is on the meta device and has no values; load its weights first")
        if not weight.is_floating_point():
            raise UnsupportedModel(
                f"{name!r} has dtype {weight.dtype}, but scores need floating-point weights; mask before quantising"
            )
        if not bool(torch.isfinite(weight).all()):
            raise UnsupportedModel(f"{name!r} contains NaN or infinite values; mask a network with finite weights")
