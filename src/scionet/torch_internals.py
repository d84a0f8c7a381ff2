"""All that scionet uses of torch without a promise of torch that it will stay: private and undocumented names.

Everything else imports them from here, under public names, so that one file has to follow torch.
"""

import warnings
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.batchnorm import _NormBase as BatchOrInstanceNormBase
from torch.nn.modules.conv import _ConvNd as ConvolutionBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "BatchNormBase",
    "BatchOrInstanceNormBase",
    "ConvolutionBase",
    "TorchDispatchMode",
    "TreeSpec",
    "WeakTensorKeyDictionary",
    "flop_registry",
    "forward_hook_count",
    "load_forward_mode",
    "own_buffers",
    "own_parameters",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
]


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's registry of its own parameters, in order; a change of it changes the module."""
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The module's registry of its own buffers, in order; a change of it changes the module."""
    return module._buffers


def forward_hook_count(module: nn.Module) -> int:
    """The number of hooks that run before or after the module's forward."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


@cache
def load_forward_mode() -> None:
    """Load torch's forward-mode derivatives, quietly: call it before the first `torch.func.jvp` of a process.

    At their first use torch compiles its own decompositions with `torch.jit.script`, which it has deprecated. Where
    warnings are errors, that would end the caller's computation.
    """
    point = torch.zeros(())
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        forward_ad.make_dual(point, torch.zeros_like(point))
