"""The global random generators, which networks and data use: seeded, and restored afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

reseed_torch = torch.default_generator.manual_seed
"""Seeds torch's generator on the CPU; `torch.manual_seed` would also record a stack trace until CUDA is in use."""


def reseed(seed: int, device: torch.device | None = None) -> None:
    """Seed the generators of Python, NumPy and torch on the CPU, and that of a device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  data sets use the global generator
    reseed_torch(seed)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def randomness_kept(device: torch.device) -> Iterator[None]:
    """Restore all generators after the block."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
