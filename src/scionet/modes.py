"""Modes of torch that surround a call of scionet: switched off meanwhile, or refused by name; one thread at a time.

A result must depend on what is given, not on where the call stands. Modes belong to a thread; the passes that scionet
suspends run in threads of their own, so a mode would also reach only a part of the work.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock

import numpy as np
import torch

from scionet.errors import UnsupportedMode
from scionet.torch_internals import foreign_modes, function_modes_off, parametrizations_uncached

AUTOCASTING = ("cpu", "cuda", "xpu", "mps", "mtia", "hpu", "xla")
"""Kinds of devices whose operations autocast can convert."""

_lock = [RLock()]
if hasattr(os, "register_at_fork"):
    # A child forked while another thread works would otherwise wait forever for a thread that it does not have.
    os.register_at_fork(after_in_child=lambda: _lock.__setitem__(0, RLock()))


@contextmanager
def alone() -> Iterator[None]:
    """One thread at a time: others wait here until the block is left. A thread may enter it again within itself.

    Whatever changes a setting of the whole process, or a network, does so in here: torch's fast path and kernels of
    attention, its global hooks and random generators, the modes and tensors of modules.
    """
    with _lock[0]:
        yield


@contextmanager
def plain_modes() -> Iterator[None]:
    """Gradients on, and off: inference mode, autocast, a default device, cached parametrizations, errors of NumPy.

    The default floating-point type, deterministic algorithms and the precision of products stay as they are: they are
    settings of the program, which the network itself may rely on.

    Raises:
        UnsupportedMode: If another mode is on (fake or functional tensors, a transform of torch.func, a mode of the
            caller's own).
    """
    if modes := foreign_modes():
        raise UnsupportedMode(
            f"scionet was called within {', '.join(modes)}, which changes what torch's operations do; call it outside, "
            "with ordinary tensors"
        )
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # which also switches gradients on
        for kind in AUTOCASTING:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(function_modes_off())
        stack.enter_context(parametrizations_uncached())
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


@contextmanager
def at_work() -> Iterator[None]:
    """Alone and in plain modes; as a decorator, it runs the whole function so.

    Raises:
        UnsupportedMode: As `plain_modes` does.
    """
    with alone(), plain_modes():
        yield
