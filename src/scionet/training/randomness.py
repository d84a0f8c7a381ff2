"""The global random numbers, which networks and data use: set to a known point, and given back as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

reseed_torch = torch.default_generator.manual_seed
"""Sets the generator on the processor, where `torch.manual_seed` would record a stack trace for a CUDA to come."""


def reseed(seed: int, device: torch.device | None = None) -> None:
    """Set the generators of Python, NumPy and torch on the processor, and that of a device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  what data sets use
    reseed_torch(seed)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def randomness_kept(device: torch.device) -> Iterator[None]:
    """Give all generators back as they were."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
