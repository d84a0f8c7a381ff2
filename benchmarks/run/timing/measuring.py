"""Clocks, inputs and problems that the benchmarks of time and memory share."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scionet.selection.terms import Term


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of an action."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def processor_seconds(action: Callable[[], object]) -> float:
    """Processor seconds of an action with one thread. With several threads, waiting would count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()
    action()
    taken = time.process_time() - start
    torch.set_num_threads(threads)
    return taken


def peak_mb() -> float:
    """Peak resident memory of this process in MB. Not ru_maxrss, which on Linux includes the parent before exec."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


class RandomBatches:
    """Batches of random images for the CIFAR networks, generated at each iteration."""

    def __init__(self, images: int) -> None:
        """Set the number of images, which is rounded down to whole batches of 128."""
        self._images = images

    def __iter__(self) -> Iterator[Tensor]:
        """The same batches each time."""
        generator = torch.Generator().manual_seed(0)
        return (torch.randn(128, 3, 32, 32, generator=generator) for _ in range(self._images // 128))


def problem(units: int, places: int = 1) -> Term:
    """A consumer of rectified, correlated units with `places` columns each; it has as many outputs as units."""
    rng, size = np.random.default_rng(0), units * places
    inputs = np.maximum(rng.normal(size=(2 * size, size)) @ rng.normal(size=(size, size)) / size**0.5, 0)
    weight = rng.normal(size=(units, size))
    moments = inputs.T @ inputs / len(inputs)
    cross = moments @ weight.T
    columns = np.arange(size).reshape(units, places)
    return Term(moments, cross, float((weight.T * cross).sum()), columns, np.zeros(0, dtype=np.int64), weight)
