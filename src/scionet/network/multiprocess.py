"""Sums over the processes that calibrate one network together, each on its part of the batches.

There is nothing to configure. Where `torch.distributed` is initialised (by torchrun, Accelerate or another launcher),
sums over batches are sums over all processes. Batch i of the whole data set is assumed to be batch ``i // count`` of
process ``i % count``, which is how Accelerate distributes batches. Under another distribution, other output pixels are
sampled from the batches; everything else is the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from scionet.errors import PruneError, UnsupportedModel


def world() -> tuple[int, int]:
    """Index of this process and number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def overall_index(index: int) -> int:
    """The index in the whole data set of the batch that has index `index` in this process."""
    process_index, count = world()
    return index * count + process_index


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; every process gets the same bits."""
    if world()[1] == 1:
        return tensor
    total = tensor.clone()
    distributed.all_reduce(total)
    return total


def everywhere(holds: bool, device: torch.device) -> bool:
    """Whether a condition holds in every process.

    Where one process has to raise an error, all must: a process that goes on would wait for the others forever.
    """
    return int(summed(torch.tensor(int(holds), device=device))) == world()[1]


@contextmanager
def failing_together(device: torch.device) -> Iterator[None]:
    """An error of ours in one process is an error in all. Inside, no process waits for another.

    Raises:
        PruneError: What was raised in this process.
        UnsupportedModel: If only others failed.
    """
    failed: PruneError | None = None
    try:
        yield
    except PruneError as error:
        failed = error
    if not everywhere(failed is None, device):
        raise failed or UnsupportedModel("another of the processes failed here; see its error")


def largest(number: int, device: torch.device) -> int:
    """The largest of the numbers in all processes."""
    if world()[1] == 1:
        return number
    found = torch.tensor(number, device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)
