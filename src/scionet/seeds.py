"""Random generators derived from a seed and a purpose, so that no use of randomness affects another."""

from collections.abc import Callable

import numpy as np

Generators = Callable[..., np.random.Generator]
"""Maps a purpose, given as strings and whole numbers, to a generator of its own."""


def seeded(seed: int) -> Generators:
    """Make generators for purposes, derived from one seed."""
    return lambda *axes: np.random.default_rng([seed, *(b for axis in axes for b in f"{axis}/".encode())])


def root(seed: int, *axes: object) -> int:
    """Seed from 0 to 2^63 − 1 for a purpose, for generators of other libraries."""
    return int(seeded(seed)(*axes).integers(2**63))
