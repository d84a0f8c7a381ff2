"""Networks whose weights are not what their forward passes read, or that are no networks: refused by name."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from scionet.errors import UnsupportedModel
from scionet.torch_internals import hooked_weights

_HOOKS: Mapping[type, tuple[str, str]] = {
    WeightNorm: (
        "weight norm of the old kind, torch.nn.utils.weight_norm",
        "use torch.nn.utils.parametrizations.weight_norm, or torch.nn.utils.remove_weight_norm({module}) first",
    ),
    SpectralNorm: (
        "spectral norm of the old kind, torch.nn.utils.spectral_norm",
        "use torch.nn.utils.parametrizations.spectral_norm, or torch.nn.utils.remove_spectral_norm({module}) first",
    ),
    BasePruningMethod: (
        "weights masked by torch.nn.utils.prune",
        "call torch.nn.utils.prune.remove({module}, {name!r}) first, which makes the zeros permanent",
    ),
}
"""Hooks that compute a weight before each call: what they are, and what to do."""


def refuse_unprunable(model: Any) -> None:
    """Refuse what cannot be pruned as it is.

    Raises:
        UnsupportedModel: If it is no module, is scripted, traced, sharded or quantised, or has weights that
            hooks compute.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModel(f"the model must be a torch.nn.Module; given {_no_module(model)}")
    for name, module in model.named_modules():
        for what, advice in (*_kinds(module), *_hooked(module, name)):
            where = f"module {name!r}" if name else f"the network ({type(module).__name__})"
            raise UnsupportedModel(f"{where} has {what}; {advice}")


def _no_module(model: Any) -> str:
    """What was given in place of a module, and what to do."""
    if inspect.isclass(model) and issubclass(model, nn.Module):
        return f"the class {model.__name__}; make an instance: {model.__name__}(...)"
    if isinstance(model, Mapping):
        return "a mapping, which looks like a state dict; build the network, and call network.load_state_dict(...)"
    if callable(model):
        return f"{getattr(model, '__name__', type(model).__name__)}, which is no module; wrap what it does in one"
    return f"{type(model).__name__}"


def _kinds(module: nn.Module) -> Iterator[tuple[str, str]]:
    """What a module is, if that cannot be pruned, and what to do."""
    if isinstance(module, torch.jit.ScriptModule):
        yield "a forward that was scripted or traced", "give the network it was made from, and script the pruned one"
    sharded = sys.modules.get("torch.distributed.fsdp")
    if sharded is not None and isinstance(module, sharded.FullyShardedDataParallel):
        yield "sharded weights (FSDP)", "prune the network before it is wrapped, in one process"
    if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
        yield "quantised weights", "prune the network in floating point, and quantise the pruned one"
    if getattr(module, "weight_fake_quant", None) is not None:
        yield "weights prepared for quantisation-aware training", "prune the network before it is prepared"


def _hooked(module: nn.Module, name: str) -> Iterator[tuple[str, str]]:
    """Hooks of a module that compute a weight, and what to do."""
    for hook, weight in hooked_weights(module):
        for kind, (what, advice) in _HOOKS.items():
            if isinstance(hook, kind):
                path = f"model.{name}" if name else "model"
                yield what, advice.format(module=path, name=weight)
