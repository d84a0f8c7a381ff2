"""Several processes that calibrate one network together, each on its share of the batches.

Nothing to be set: where `torch.distributed` is initialised (torchrun, Accelerate, a launcher of your own), sums over
batches are sums over all processes. Batch i of the whole is taken to be batch ``i // size`` of process ``i % size``, as
Accelerate deals them out; with batches dealt out otherwise other pixels are drawn, and all else is the same.
"""

import torch
from torch import Tensor, distributed


def world() -> tuple[int, int]:
    """Rank of this process and number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def overall_index(index: int) -> int:
    """The number in the whole of a batch that is number `index` here."""
    rank, size = world()
    return index * size + rank


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, bit for bit the same in each."""
    if world()[1] == 1:
        return tensor
    total = tensor.clone()
    distributed.all_reduce(total)
    return total


def everywhere(holds: bool, device: torch.device) -> bool:
    """Whether something holds in every process, so that all give up together and none waits for another."""
    return int(summed(torch.tensor(int(holds), device=device))) == world()[1]


def largest(number: int, device: torch.device) -> int:
    """The largest of the numbers that all processes give."""
    if world()[1] == 1:
        return number
    found = torch.tensor(number, device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)
