"""Runs the operations and networks that a latency table times, each operation under the conditions of the network."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from scionet.budget.latency.timed_operations import POINTS, STEP, Kernel, Uses
from scionet.budget.latency.timing import Timer
from scionet.network.calling import Batch, call
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut

DENSITIES = (1.0, 0.75, 0.5, 0.25)
"""Densities of the whole networks that are timed along with their operations."""

NETWORK_RUNS = 3
"""Number of runs of a whole network whose mean is taken: there are few networks, and each matters much."""
ACCELERATOR_RUNS = 10
"""Number of runs of an operation on an accelerator whose mean is taken: waiting for a single run takes too long."""


class Workbench:
    """Runs and times operations and networks.

    Args:
        device: Device to run on.
        watch: Makes timers.
        batch: The batch that whole networks are called on.
    """

    def __init__(self, device: torch.device, watch: Callable[..., Timer], batch: Batch) -> None:
        self._device, self._batch = device, batch
        self._whole = watch(device, runs=NETWORK_RUNS)
        self._alone = watch(device, runs=1 if device.type == "cpu" else ACCELERATOR_RUNS)
        self._left: Any = None

    def in_order(self, uses: Uses, networks: Mapping[tuple[int, ...], nn.Module]) -> dict[Any, Callable[[], float]]:
        """A timing function for each entry and network: narrow ones first, and then in the network's order."""
        timed: list[tuple[tuple[float, ...], Any, Callable[[], float]]] = [
            (
                (round(POINTS * float(np.mean(point or (1.0,)))), place, number),
                (kernel, point),
                partial(self._time, kernel, point),
            )
            for number, kernel in enumerate(uses)
            for place, point in enumerate(kernel.points)
        ]
        for density, (kept, network) in zip(DENSITIES, networks.items(), strict=False):
            run = partial(self._whole, partial(call, network, self._batch))
            timed.append(((POINTS * density, -1), kept, run))
        return {key: run for _, key, run in sorted(timed, key=lambda entry: entry[0])}

    def _time(self, kernel: Kernel, point: tuple[float, ...]) -> float:
        action, results = kernel.at(point, self._device), deque[Any](maxlen=1)
        elapsed_ms = self._alone(lambda: results.append(action()))
        self._left = action, results
        return elapsed_ms


def common_widths(sites: Sites) -> list[tuple[int, ...]]:
    """Widths near each of the `DENSITIES`, multiples of `STEP` where a site is wider than that."""
    widths = np.array([site.width for site in sites.values()], dtype=np.int64)
    rounded = [np.clip(STEP * np.round(density * widths / STEP), STEP, widths) for density in DENSITIES]
    return list(dict.fromkeys(tuple(kept.astype(int).tolist()) for kept in rounded))


def cut_to(model: nn.Module, sites: Sites, kept: Sequence[int]) -> nn.Module:
    """The network with the first units of each site."""
    pairs = zip(sites.values(), kept, strict=True)
    return cut(model, Plan(tuple(Choice(s.name, s.width, tuple(range(k)), (1.0,) * k) for s, k in pairs)), sites)
