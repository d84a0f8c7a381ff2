"""Timing of actions that take turns, on processors and accelerators, and the latency of whole models."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from time import get_clock_info, perf_counter, thread_time
from typing import Any, TypeVar

import torch
from torch import nn

from scionet.budget.latency.durations import Latency
from scionet.errors import InvalidSetting
from scionet.network.calling import Batch, call, example_count, place_of, to_model, undisturbed
from scionet.progress import Progress, silent

Key = TypeVar("Key", bound=Hashable)
Action = Callable[[], Any]
Clock = Callable[[], float]
"""Returns the time in seconds."""

Timer = Callable[[Action], float]
"""Runs an action, and returns the milliseconds that one run takes."""

_FINE_S = 1e-6


def clock_on(device: torch.device) -> Clock:
    """The wall clock, or the processor time of the thread where a single thread of the processor computes.

    Both agree on an idle machine. On a busy one the second excludes the time of other programs.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return thread_time if alone and get_clock_info("thread_time").resolution <= _FINE_S else perf_counter


def stopwatch(device: torch.device, runs: int = 1, clock: Clock | None = None) -> Timer:
    """A timer that waits until an accelerator has finished.

    Args:
        device: Device that the actions run on.
        runs: Number of runs in a row, of which the mean is taken: more than one where waiting takes longer than the
            action.
        clock: The clock; by default that of `clock_on`.
    """
    now = clock or clock_on(device)

    def time_ms(action: Action) -> float:
        _finish(device)
        start = now()
        for _ in range(runs):
            action()
        _finish(device)
        return 1e3 * (now() - start) / runs

    return time_ms


def interleaved(
    timed: Mapping[Key, Callable[[], float]], repeats: int, warmup: int, progress: Progress = silent
) -> dict[Key, list[float]]:
    """Durations of many actions that take turns, so that a machine that is slow for a while is slow for all of them.

    Args:
        timed: Functions that run an action each, and return its duration.
        repeats: Number of rounds that are kept.
        warmup: Number of rounds before those.
        progress: Receives the number of rounds done.

    Raises:
        InvalidSetting: If a number is out of range.
    """
    if repeats < 1 or warmup < 0:
        raise InvalidSetting(f"latency needs repeats >= 1 and warmup >= 0; given repeats {repeats}, warmup {warmup}")
    times: dict[Key, list[float]] = {key: [] for key in timed}
    for number in range(warmup + repeats):
        for key, run in timed.items():
            elapsed = run()
            if number >= warmup:
                times[key].append(elapsed)
        progress("latency", number + 1, warmup + repeats)
    return times


def latency(
    models: Mapping[str, nn.Module], batch: Batch, repeats: int = 30, warmup: int = 3, threads: int = 1
) -> dict[str, Latency]:
    """Duration of one forward pass of each model on one batch. The models take turns and are left as they were.

    The clock is that of `clock_on`.

    Args:
        models: The models by name.
        batch: The batch that each model is called on.
        repeats: Timed runs of each model.
        warmup: Runs of each model before those, not timed.
        threads: Number of threads that torch uses meanwhile.

    Raises:
        InvalidSetting: If a number is out of range.
    """
    if threads < 1:
        raise InvalidSetting(f"latency needs threads >= 1; given {threads}")
    with _threads(threads), all_undisturbed(models.values()):
        times_ms = interleaved({name: _pass(m, batch) for name, m in models.items()}, repeats, warmup)
    return {name: Latency.of(times, example_count(batch)) for name, times in times_ms.items()}


@contextmanager
def all_undisturbed(models: Iterable[nn.Module]) -> Iterator[None]:
    """Eval mode without gradients for several models, which are restored afterwards."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(undisturbed(model))
        yield


def _pass(model: nn.Module, batch: Batch) -> Callable[[], float]:
    """A function that times one forward pass, without its preparation."""
    return partial(stopwatch(place_of(model)[0]), partial(call, model, to_model(batch, model)))


def _finish(device: torch.device) -> None:
    """Wait until an accelerator has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
