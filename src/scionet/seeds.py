"""Randomness as a function of a seed and of what it is for, so that nothing depends on what else was drawn before."""

from collections.abc import Callable

import numpy as np

Draw = Callable[..., np.random.Generator]
"""A generator for each purpose, named by texts and whole numbers, so that none depends on what others drew."""

_WORD = 2**64


def seeded(seed: int) -> Draw:
    """Generators that derive from one seed."""
    return lambda *axes: np.random.default_rng([seed, *(b for axis in axes for b in f"{axis}/".encode())])


def mixed(seed: int, number: int) -> int:
    """The number-th of the seeds, from 0 to 2^64 − 1, that derive from one; takes a microsecond.

    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) % _WORD
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % _WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % _WORD
    return z ^ z >> 31
