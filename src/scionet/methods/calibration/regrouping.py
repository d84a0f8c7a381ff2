"""Splits, shuffles and joins batches of examples."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from scionet.network.calling import concatenated, divides, example_count, form_of, some_of


def pieces(batches: Iterable[Any], most: int) -> list[Any]:
    """Batches in parts of at most `most` examples; a batch that cannot be divided stays as it is."""
    found = list[Any]()
    for batch in batches:
        size = example_count(batch)
        step = most if divides(batch) else size
        found += [_part(batch, size, start, min(start + step, size)) for start in range(0, size, step)]
    return found


def shuffled(batches: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """The same examples in batches of the same sizes, in random order; or the batches, where examples cannot be mixed.

    Data that are sorted by class would otherwise give each step one class.
    """
    sizes = [example_count(batch) for batch in batches]
    whole = all(divides(batch) for batch, size in zip(batches, sizes, strict=True))
    if not whole or len({form_of(batch) for batch in batches}) > 1:
        return [batches[number] for number in rng.permutation(len(batches))]
    order = torch.from_numpy(rng.permutation(sum(sizes))).split(sizes)
    singles = pieces(batches, 1)
    return [concatenated([singles[number] for number in picks.tolist()]) for picks in order]


def _part(batch: Any, size: int, start: int, stop: int) -> Any:
    """Some examples of a batch."""
    if (start, stop) == (0, size):
        return batch
    return some_of(batch, slice(start, stop))
