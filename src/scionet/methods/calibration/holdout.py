"""Examples kept apart from everything that is fitted, so that a repair can be judged on them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scionet.errors import CalibrationError
from scionet.network.calling import divides, example_count, some_of
from scionet.torch_internals import tree_flatten, tree_map

SHARE = 8
"""One example in so many is kept apart."""


def kept_apart(batches: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Every batch without its last examples, and these: one in eight over all batches.

    A batch that cannot be divided, since not all its tensors have examples in front, is kept apart as a whole when its
    turn comes.

    Returns:
        What to fit on, and what to judge on. All batches are held in memory.

    Raises:
        CalibrationError: If there is nothing for one of the two.
    """
    fitted, judged, owed = list[Any](), list[Any](), 0
    for batch in batches:
        size = example_count(batch)
        owed += size
        count = owed // SHARE if divides(batch) else size * (owed >= SHARE * size)
        owed -= SHARE * count
        if count < size:
            fitted.append(_part(batch, size, 0, size - count))
        if count:
            judged.append(_part(batch, size, size - count, size))
    if not fitted or not judged:
        raise CalibrationError(
            f"reconstruction keeps one calibration example in {SHARE} apart to be judged on; given "
            f"{len(fitted)} batches, too few for that: give {SHARE} examples or more, in tensors shaped "
            f"(batch, ...) or in {SHARE} batches or more, or set reconstruct_steps=0"
        )
    return fitted, judged


def pieces(batches: Iterable[Any], most: int) -> list[Any]:
    """Batches in parts of at most so many examples; those that cannot be divided as they are."""
    found = list[Any]()
    for batch in batches:
        size = example_count(batch)
        step = most if divides(batch) else size
        found += [_part(batch, size, start, min(start + step, size)) for start in range(0, size, step)]
    return found


def shuffled(batches: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """The same examples in batches of the same sizes, in random order; batches in random order if they cannot be mixed.

    Data that are sorted by class would otherwise give each step one class.
    """
    sizes = [example_count(batch) for batch in batches]
    whole = all(divides(batch) for batch, size in zip(batches, sizes, strict=True))
    if not whole or len({_form(batch) for batch in batches}) > 1:
        return [batches[number] for number in rng.permutation(len(batches))]
    order = torch.from_numpy(rng.permutation(sum(sizes))).split(sizes)
    singles = pieces(batches, 1)
    return [tree_map(_together, *(singles[number] for number in picks.tolist())) for picks in order]


def _together(*values: Any) -> Any:
    """Tensors one behind the other; of anything else the first."""
    return torch.cat(values) if isinstance(values[0], Tensor) else values[0]


def _form(batch: Any) -> Any:
    """What batches must share to be put together: the shapes of examples, and all that is no tensor."""
    leaves, structure = tree_flatten(batch)
    return str(structure), str([tuple(leaf.shape[1:]) if isinstance(leaf, Tensor) else leaf for leaf in leaves])


def _part(batch: Any, size: int, start: int, stop: int) -> Any:
    """Some examples of a batch."""
    if (start, stop) == (0, size):
        return batch
    return some_of(batch, slice(start, stop))
