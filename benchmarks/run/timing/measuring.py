"""What benchmarks of time and memory share: clocks, and what is measured on."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scionet.selection.terms import Term


def seconds(action: Callable[[], object]) -> float:
    """Time on the wall."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def processor_seconds(action: Callable[[], object]) -> float:
    """Processor time with one thread: several wait for each other, which counts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()
    action()
    taken = time.process_time() - start
    torch.set_num_threads(threads)
    return taken


def peak_mb() -> float:
    """Largest resident size of this process so far. Not ru_maxrss, into which Linux counts the parent before exec."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


class RandomBatches:
    """Random pictures for the CIFAR networks, made anew at each iteration."""

    def __init__(self, images: int) -> None:
        """So many, rounded down to whole batches of 128."""
        self._images = images

    def __iter__(self) -> Iterator[Tensor]:
        """The same batches each time."""
        generator = torch.Generator().manual_seed(0)
        return (torch.randn(128, 3, 32, 32, generator=generator) for _ in range(self._images // 128))


def problem(units: int, places: int = 1) -> Term:
    """A consumer of rectified, correlated units, each seen at so many places; as many outputs as units."""
    rng, size = np.random.default_rng(0), units * places
    inputs = np.maximum(rng.normal(size=(2 * size, size)) @ rng.normal(size=(size, size)) / size**0.5, 0)
    weight = rng.normal(size=(units, size))
    moments = inputs.T @ inputs / len(inputs)
    cross = moments @ weight.T
    columns = np.arange(size).reshape(units, places)
    return Term(moments, cross, float((weight.T * cross).sum()), columns, np.zeros(0, dtype=np.int64), weight)
