"""Private and undocumented names of torch that scionet uses. Any release of torch may change them.

All other modules import them from here, under public names. Only this file has to follow changes of torch.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch._compile import _disable_dynamo as disable_dynamo
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.batchnorm import _NormBase as BatchOrInstanceNormBase
from torch.nn.modules.conv import _ConvNd as ConvolutionBase
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode_stack,
    is_traceable_wrapper_subclass,
)
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "BatchNormBase",
    "BatchOrInstanceNormBase",
    "ConvolutionBase",
    "DispatchMode",
    "TreeSpec",
    "WeakTensorKeyDictionary",
    "flop_registry",
    "foreign_modes",
    "forward_hook_count",
    "function_modes_off",
    "hooked_weights",
    "is_traceable_wrapper_subclass",
    "load_forward_mode",
    "own_buffers",
    "own_parameters",
    "parametrizations_uncached",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
]


class DispatchMode(TorchDispatchMode):
    """A mode whose `__torch_dispatch__` sees every tensor operation.

    torch keeps its compiler away from that method, and imports it to do so, which takes more than a second. Here that
    happens only where the compiler is imported already: otherwise nothing can be compiled.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Choose for each operation."""
        super().__init_subclass__(**kwargs)
        plain = cls.__dict__.get("__torch_dispatch__")
        if plain is None:
            return
        uncompiled = disable_dynamo(plain)

        @wraps(plain)
        def dispatch(*args: Any, **kwargs: Any) -> Any:
            return (uncompiled if "torch._dynamo" in sys.modules else plain)(*args, **kwargs)

        cls.__torch_dispatch__ = dispatch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch itself keeps its compiler away."""
        return False


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's registry of its own parameters, in order; a change of it changes the module."""
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The module's registry of its own buffers, in order; a change of it changes the module."""
    return module._buffers


def forward_hook_count(module: nn.Module) -> int:
    """The number of hooks that run before or after the module's forward."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def hooked_weights(module: nn.Module) -> list[tuple[Any, str]]:
    """The hooks of torch.nn.utils that run before a module, with the names of the weights that they compute."""
    names = (
        (hook, getattr(hook, "_tensor_name", getattr(hook, "name", ""))) for hook in module._forward_pre_hooks.values()
    )
    return [(hook, str(name)) for hook, name in names]


def foreign_modes() -> list[str]:
    """Names of the modes of this thread that change what operations do or return, a default device left out."""
    found = [
        *(mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)),
        *_get_current_dispatch_mode_stack(),
    ]
    names = [type(mode).__name__ for mode in found]
    transform = peek_interpreter_stack()
    if transform is not None:
        names.append(f"torch.func.{transform.key().name.lower()}")
    if torch._C._get_tracing_state() is not None:
        names.append("torch.jit.trace")
    return names


@contextmanager
def function_modes_off() -> Iterator[None]:
    """Take the modes that see calls of torch's functions, such as a default device, off this thread."""
    modes: list[TorchFunctionMode] = []
    try:
        while _get_current_function_mode_stack():
            modes.append(_pop_mode())
        yield
    finally:
        while modes:
            _push_mode(modes.pop())


@contextmanager
def parametrizations_uncached() -> Iterator[None]:
    """Parametrized weights are computed afresh, also within `torch.nn.utils.parametrize.cached`."""
    enabled, cache = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        yield
    finally:
        parametrize._cache_enabled, parametrize._cache = enabled, cache


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
