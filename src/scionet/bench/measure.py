"""Latency of a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import torch
from torch import nn

from scionet.bench.record import Latency
from scionet.errors import InvalidSetting
from scionet.network.running import Batch, call, example_count, place_of, to_model, undisturbed


def latency(
    models: Mapping[str, nn.Module], batch: Batch, repeats: int = 30, warmup: int = 3, threads: int = 1
) -> dict[str, Latency]:
    """Time of one forward pass of each model, on one batch. The models are left as they were.

    The models take turns, so that a machine that is slow for a while is slow for all of them.

    Args:
        models: The models by name.
        batch: What each is called on.
        repeats: Timed runs of each model.
        warmup: Runs of each model before those, not timed.
        threads: Threads that torch may use meanwhile; afterwards it has as many as before.

    Raises:
        InvalidSetting: If a number is out of range.
    """
    if repeats < 1 or warmup < 0 or threads < 1:
        numbers = f"repeats {repeats}, warmup {warmup}, threads {threads}"
        raise InvalidSetting(f"latency needs repeats >= 1, warmup >= 0 and threads >= 1; given {numbers}")
    times: dict[str, list[float]] = {name: [] for name in models}
    with _threads(threads):
        for number in range(warmup + repeats):
            for name, model in models.items():
                elapsed_ms = _time_ms(model, batch)
                if number >= warmup:
                    times[name].append(elapsed_ms)
    return {name: _summary(values, example_count(batch)) for name, values in times.items()}


def _time_ms(model: nn.Module, batch: Batch) -> float:
    """Milliseconds of one forward pass, without the preparations."""
    with undisturbed(model):
        ready = to_model(batch, model)
        device = place_of(model)[0]
        _finish(device)
        start = perf_counter()
        call(model, ready)
        _finish(device)
        return 1e3 * (perf_counter() - start)


def _finish(device: torch.device) -> None:
    """Wait for what an accelerator still computes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summary(times_ms: list[float], batch_size: int) -> Latency:
    """Quartiles of the runs."""
    lower, median, upper = np.quantile(times_ms, [0.25, 0.5, 0.75]).tolist()
    return Latency(median, lower, upper, batch_size)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
