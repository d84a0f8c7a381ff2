"""Randomness as a function of a seed and of what it is for, so that nothing depends on what else was drawn before."""

from collections.abc import Callable

import numpy as np

Generators = Callable[..., np.random.Generator]
"""A generator for each purpose, named by texts and whole numbers, so that none depends on what others drew."""


def seeded(seed: int) -> Generators:
    """Generators that derive from one seed."""
    return lambda *axes: np.random.default_rng([seed, *(b for axis in axes for b in f"{axis}/".encode())])


def root(seed: int, *axes: object) -> int:
    """A number from 0 to 2^63 − 1 for a purpose, from which generators of other kinds are counted on."""
    return int(seeded(seed)(*axes).integers(2**63))
