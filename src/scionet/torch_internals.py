"""Private and undocumented names of torch that scionet uses. Any release of torch may change them.

All other modules import them from here, under public names. Only this file has to follow changes of torch.
"""

from torch import Tensor, nn
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
