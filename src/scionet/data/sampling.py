"""Random subsets and disjoint random parts, reproducible by seed."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from scionet.data.folders import ImageFolder
from scionet.errors import InvalidSetting
from scionet.seeds import seeded


def sampled(
    pool: NDArray[np.int64], count: int | None, rng: np.random.Generator, what: str, source: object = "the rest"
) -> NDArray[np.int64]:
    """Sample from a pool without replacement.

    Args:
        pool: Values to sample from.
        count: Number of values; None returns the whole pool and uses no random numbers.
        rng: Random generator.
        what: Plural noun for the values, for the error message.
        source: Name of the pool, for the error message.

    Returns:
        The sampled values, ascending.

    Raises:
        InvalidSetting: If `count` is below 1 or larger than the pool.
    """
    if count is None:
        return pool
    if not 1 <= count <= len(pool):
        raise InvalidSetting(f"{count} {what} requested; give 1 to {len(pool)}, the size of {source}")
    return np.sort(rng.choice(pool, count, replace=False))


def sample(folder: ImageFolder, count: int, seed: int, per_class: bool = False) -> NDArray[np.int64]:
    """Sample images without replacement, reproducibly by seed.

    Args:
        folder: The image folder.
        count: Number of images; with `per_class`, the number per class.
        seed: Seed of the sample.
        per_class: Whether to sample from each class separately.

    Returns:
        Indices, ascending.

    Raises:
        InvalidSetting: If there are fewer images than requested.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(folder.labels)
    pools = [np.flatnonzero(labels == c) for c in range(len(folder.classes))] if per_class else [np.arange(len(folder))]
    source = f"a class of {folder.root}" if per_class else folder.root
    return np.sort(np.concatenate([sampled(pool, count, rng, "images", source) for pool in pools]))


def partition(count: int, sizes: Mapping[str, int], seed: int, rest: str = "train") -> dict[str, NDArray[np.int64]]:
    """Split the indices from 0 to ``count - 1`` into disjoint random parts, reproducibly by seed.

    A part does not change if further parts are added after it.

    Args:
        count: Number of examples.
        sizes: Number of examples per part, such as ``{"test": 1000, "validation": 500, "score": 256}``.
        seed: Seed of the split.
        rest: Name of the part with the remaining examples.

    Returns:
        Indices of each part, ascending.

    Raises:
        InvalidSetting: If a size is negative, no examples remain, or a name is used twice.
    """
    if rest in sizes or min(sizes.values(), default=0) < 0 or sum(sizes.values()) >= count:
        raise InvalidSetting(
            f"cannot take {dict(sizes)} from {count} examples and leave some for {rest!r}; names must be distinct, and "
            "sizes nonnegative with a sum below the number of examples"
        )
    order = seeded(seed)("partition").permutation(count)
    parts = np.split(order, np.cumsum([*sizes.values()], dtype=np.int64))
    return {name: np.sort(part) for name, part in zip((*sizes, rest), parts, strict=True)}
