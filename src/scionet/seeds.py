"""Random generators derived from a seed and a purpose, so that no use of randomness affects another."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_GOLDEN = (5**0.5 - 1) / 2

Generators = Callable[..., np.random.Generator]
"""Maps a purpose, given as strings and whole numbers, to a generator of its own."""


def seeded(seed: int) -> Generators:
    """Make generators for purposes, derived from one seed."""
    return lambda *axes: np.random.default_rng([seed, *(b for axis in axes for b in f"{axis}/".encode())])


def root(seed: int, *axes: object) -> int:
    """Seed from 0 to 2^63 − 1 for a purpose, for generators of other libraries."""
    return int(seeded(seed)(*axes).integers(2**63))


def hashed(key: int, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A random number for each of many numbers, 0 to 2^64 − 1: a function of the key and of that number alone.

    Source: SplitMix64 (Steele et al., OOPSLA 2014).
    """
    with np.errstate(over="ignore"):
        mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def coprime_step(size: int) -> int:
    """A step, close to the golden ratio of the size, that visits every place of a circle of this size once.

    Any few steps in a row spread evenly over the circle.
    """
    step = max(1, round(size * _GOLDEN))
    while math.gcd(step, size) > 1:
        step += 1
    return step
