"""Random subsets and disjoint random parts, the same for the same seed."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from scionet.data.folders import ImageFolder
from scionet.errors import InvalidSetting
from scionet.seeds import seeded


def sampled(
    pool: NDArray[np.int64], count: int | None, rng: np.random.Generator, what: str, source: object = "the rest"
) -> NDArray[np.int64]:
    """So many of a pool, without repetition.

    Args:
        pool: What to draw from.
        count: How many; None takes all and draws nothing.
        rng: What draws.
        what: What they are, in an error's text.
        source: What they come from, there.

    Returns:
        What was sampled, ascending.

    Raises:
        InvalidSetting: If there are fewer.
    """
    if count is None:
        return pool
    if not 1 <= count <= len(pool):
        raise InvalidSetting(f"{count} {what} asked for; {source} has 1..{len(pool)} to give")
    return np.sort(rng.choice(pool, count, replace=False))


def sample(folder: ImageFolder, count: int, seed: int, per_class: bool = False) -> NDArray[np.int64]:
    """A random subset without repetition, the same for the same seed.

    Args:
        folder: The pictures.
        count: How many; with `per_class`, how many of every class.
        seed: Seed of the draw.
        per_class: Generators from every class separately.

    Returns:
        Indices, ascending.

    Raises:
        InvalidSetting: If there are fewer pictures than asked for.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(folder.labels)
    pools = [np.flatnonzero(labels == c) for c in range(len(folder.classes))] if per_class else [np.arange(len(folder))]
    source = f"a class of {folder.root}" if per_class else folder.root
    return np.sort(np.concatenate([sampled(pool, count, rng, "pictures", source) for pool in pools]))


def partition(count: int, sizes: Mapping[str, int], seed: int, rest: str = "train") -> dict[str, NDArray[np.int64]]:
    """Disjoint random parts of the numbers from 0 to ``count - 1``, the same for the same seed.

    A part stays what it is when others are added behind it.

    Args:
        count: Number of examples.
        sizes: Number of examples of each part, such as ``{"test": 1000, "validation": 500, "score": 256}``.
        seed: Seed of the draw.
        rest: Name of the part that gets what is left.

    Returns:
        Indices of each part, ascending.

    Raises:
        InvalidSetting: If a size is negative, nothing is left, or a name is given twice.
    """
    if rest in sizes or min(sizes.values(), default=0) < 0 or sum(sizes.values()) >= count:
        raise InvalidSetting(
            f"cannot take {dict(sizes)} from {count} examples and leave some for {rest!r}; give other names, and sizes "
            "of 0 or more that add up to less"
        )
    order = seeded(seed)("partition").permutation(count)
    parts = np.split(order, np.cumsum([*sizes.values()], dtype=np.int64))
    return {name: np.sort(part) for name, part in zip((*sizes, rest), parts, strict=True)}
