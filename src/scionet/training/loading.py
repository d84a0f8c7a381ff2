"""Batches from a map-style data set, read by this process or by workers; the same ones, whoever reads."""

import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from scionet.errors import PruneError, TrainingError
from scionet.network.calling import Batch
from scionet.training.order import Ticket
from scionet.training.randomness import reseed, reseed_torch

Pair = tuple[Batch, Tensor]
"""Inputs and their labels, int64 ``(batch,)``."""


class Examples(Protocol):
    """A map-style data set: what `fit` learns from."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """An example: its input (a tensor, or a dict of tensors) and its label, a whole number from 0."""
        ...


def load(data: Examples, parts: Iterable[list[Ticket]], workers: int = 0, pin: bool = False) -> Iterator[Pair]:
    """Read batches.

    What an example is made into by torch's random numbers depends on the seed in its ticket alone. Those of Python and
    NumPy take longer to set, and depend on the batch.

    Args:
        data: The examples.
        parts: The examples of each batch.
        workers: Processes that read; 0 reads here.
        pin: Keep batches in memory that a GPU reads fast.

    Raises:
        TrainingError: If an example cannot be read, or is no input with a whole-number label.
    """
    loader = DataLoader(
        _Reader(data),
        batch_sampler=parts,  # type: ignore[arg-type]  any iterable of batches serves
        num_workers=workers,
        pin_memory=pin,
        collate_fn=_passed,
        generator=torch.Generator(),  # not the global one, of which a draw would be taken
    )
    for batch in loader:
        if isinstance(batch, _Failure):
            error = TrainingError(batch.text)
            error.add_note(batch.trace)
            raise error
        yield batch


@dataclass(frozen=True)
class _Failure:
    """An error on its way from a worker, whose class the loader could not make again.

    Attributes:
        text: What is wrong, for a person.
        trace: Where it was found.
    """

    text: str
    trace: str


class _Reader(Dataset):
    """Reads whole batches of tickets."""

    def __init__(self, data: Examples) -> None:
        self._data = data

    def __getitems__(self, tickets: list[Ticket]) -> Pair | _Failure:
        index, seed = tickets[0]
        reseed(seed)
        try:
            read = []
            for index, seed in tickets:
                reseed_torch(seed)
                read.append(self._data[index])
            return _stacked(read)
        except PruneError as error:
            return _Failure(str(error), traceback.format_exc())
        except Exception as error:  # whatever a stranger's data set raises
            what = f"example {index} of the data cannot be read: {type(error).__name__}: {error}"
            return _Failure(f"{what}; repair it or leave it out", traceback.format_exc())


def _passed(batch: Any) -> Any:
    return batch


def _stacked(read: list[Any]) -> Pair:
    """Examples as a batch.

    Raises:
        TrainingError: If they are no pairs, or cannot be stacked.
    """
    if any(not isinstance(example, tuple | list) or len(example) != 2 for example in read):
        raise TrainingError(f"an example must be a pair of input and label; given a {type(read[0]).__name__}")
    try:
        inputs, labels = default_collate(read)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"examples do not make a batch: {reason}; give tensors of equal shapes") from error
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        raise TrainingError(f"a label must be a whole number; given {read[0][1]!r}")
    return inputs, labels.long()
