"""Real processes, forked from one that has imported what they need: importing torch takes seconds in each."""

from collections.abc import Callable
from typing import Any

from torch import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch._dynamo", "accelerate", "scionet.pruning", "scionet.training.fit"])


def together(function: Callable[..., None], count: int, *arguments: Any) -> None:
    """Run a function in several processes at once, with the number of the process as its first argument.

    Raises:
        ProcessRaisedException: If it raises in one of them.
    """
    multiprocessing.start_processes(function, arguments, count, start_method="forkserver")
