"""Batches from a map-style data set, read by this process or by workers, with the same result."""

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from scionet.errors import PruneError, TrainingError
from scionet.network.calling import Batch
from scionet.training.order import SeededIndex
from scionet.training.randomness import reseed, reseed_torch

Pair = tuple[Batch, Tensor]
"""Inputs and their labels, int64 ``(batch,)``."""
Kind = TypeVar("Kind")
Collate = Callable[[list[Any]], Kind]
"""Makes a batch of examples: `pairs`, or `tree`."""


class Examples(Protocol):
    """A map-style data set, as `fit` takes it."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """An example: an input (a tensor, or a dict of tensors) and a label (a whole number from 0).

        For a loss of the caller's: whatever `torch.utils.data.default_collate` makes a batch of.
        """
        ...


def load(
    data: Examples,
    parts: Iterable[list[SeededIndex]],
    collate: Collate[Kind],
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Kind]:
    """Read batches.

    Torch's random numbers are seeded for each example. Those of Python and NumPy, which take longer to seed, are seeded
    once for each batch.

    Args:
        data: The examples.
        parts: The examples of each batch: their indices and seeds.
        collate: What makes a batch of examples.
        workers: Processes that read; 0 reads in this one.
        pin: Put batches into pinned memory, from which a GPU copies faster.

    Raises:
        TrainingError: If an example cannot be read, or examples do not make a batch.
    """
    loader = DataLoader(
        _Reader(data, collate),
        batch_sampler=parts,  # type: ignore[arg-type]  any iterable of batches serves
        num_workers=workers,
        pin_memory=pin,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # the default would advance the global generator
    )
    for batch in loader:
        if isinstance(batch, _Failure):
            error = TrainingError(batch.text)
            error.add_note(batch.trace)
            raise error
        yield batch


@dataclass(frozen=True)
class _Failure:
    """An error in a worker, as text: the loader cannot rebuild every class of errors in this process.

    Attributes:
        text: The message.
        trace: The traceback.
    """

    text: str
    trace: str


class _Reader(Dataset):
    """Reads whole batches."""

    def __init__(self, data: Examples, collate: Collate[Any]) -> None:
        self._data, self._collate = data, collate

    def __getitems__(self, examples: list[SeededIndex]) -> Any:
        index, seed = examples[0]
        reseed(seed)
        try:
            read = []
            for index, seed in examples:
                reseed_torch(seed)
                read.append(self._data[index])
            return self._collate(read)
        except PruneError as error:
            return _Failure(str(error), traceback.format_exc())
        except Exception as error:  # a data set may raise anything
            problem = f"example {index} of the data cannot be read: {type(error).__name__}: {error}"
            return _Failure(f"{problem}; repair it or leave it out", traceback.format_exc())


def _unchanged(batch: Any) -> Any:
    return batch


def pairs(examples: list[Any]) -> Pair:
    """Examples of a classifier as a batch.

    Raises:
        TrainingError: If one is not a pair of an input and a whole-number label, or they cannot be stacked.
    """
    if any(not isinstance(example, tuple | list) or len(example) != 2 for example in examples):
        raise TrainingError(
            f"an example must be a pair of input and label; given a {type(examples[0]).__name__}. Other examples need "
            "loss=, a function of outputs and batch"
        )
    inputs, labels = tree(examples)
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        raise TrainingError(
            f"a label must be a whole number; given {examples[0][1]!r}. Other targets need loss=, a function of "
            "outputs and batch"
        )
    return inputs, labels.long()


def tree(examples: list[Any]) -> Any:
    """Examples of any kind as a batch: tensors are stacked in nested dicts, tuples and lists.

    Raises:
        TrainingError: If they cannot be stacked.
    """
    try:
        return default_collate(examples)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"examples do not make a batch: {reason}; give tensors of equal shapes") from error
