"""Latency that is known: a timer that counts instead of timing, tables made by hand, and a slow way to read a table."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scionet.budget.latency.durations import Latency
from scionet.budget.latency.origin import Origin
from scionet.budget.latency.table import LatencyTable, NetworkTime, OperationTimes
from scionet.budget.latency.timed_operations import Axis, Use
from scionet.network.calling import tensors_of
from scionet.network.sites import Sites
from scionet.torch_internals import TorchDispatchMode
from scionet.typing import FloatArray

ORIGIN = Origin("network", "float32 2x2x5x5", "float32", "cpu", "Example CPU @ 2.40GHz", 1, "2.6.0", "perf_counter")


class Counting(TorchDispatchMode):
    """Adds up a made-up time for every operation, bilinear in the sizes of its tensors; views take none."""

    def __init__(self) -> None:
        super().__init__()
        self.ms = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in {"convolution", "addmm", "mm"}:
            weight = args[1] if name != "addmm" else args[2]
            self.ms += 0.3 + 1e-3 * weight.numel() + 0.02 * weight.shape[0] + 0.05 * weight.shape[1]
        elif name not in {"view", "t", "permute", "transpose", "detach", "empty", "ones", "expand", "_unsafe_view"}:
            self.ms += 0.1 + 1e-4 * sum(t.numel() for t in tensors_of(args))
        return func(*args, **(kwargs or {}))


def counting(device: torch.device, runs: int = 1) -> Callable[[Callable[[], Any]], float]:
    """In place of `stopwatch`."""

    def time_ms(action: Callable[[], Any]) -> float:
        with Counting() as counted:
            action()
        return counted.ms

    return time_ms


def handmade(sites: Sites, seed: int, steps: float = 0.5, constant_ms: float = 2.0) -> LatencyTable:
    """A table with every width as a knot: for every site an operation of its own, and one for every weight.

    Args:
        sites: The sites.
        seed: Of the random times.
        steps: CostPart of the widths at which times do not rise.
        constant_ms: What takes time whatever the widths.
    """
    rng = np.random.default_rng(seed)
    axes = {(s.tensor, s.dim): Axis(()) for site in sites.values() for s in site.slots}
    for name, site in sites.items():
        for slot in site.slots:
            share = slot.index.size / sites.shapes[slot.tensor][slot.dim]
            axes[slot.tensor, slot.dim] = Axis((*axes[slot.tensor, slot.dim].shares, (name, share)))
    calls = [(Axis(((name, 1.0),)),) for name in sites]
    calls += [
        tuple(dict.fromkeys(axes[weight, dim] for dim in (0, 1) if (weight, dim) in axes))
        for weight in dict.fromkeys(o.weight for o in sites.operations if o.weight)
    ]
    operations = tuple(_operation(call, sites, rng, steps) for call in calls if call)
    full = {name: site.width for name, site in sites.items()}
    half = {name: max(1, width // 2) for name, width in full.items()}
    networks = tuple(
        NetworkTime(tuple(widths.values()), Latency.of([constant_ms + slow_ms(operations, full, widths)], 2))
        for widths in (full, half)
    )
    return LatencyTable(ORIGIN, 9, tuple(full.items()), operations, networks)


def _operation(axes: tuple[Axis, ...], sites: Sites, rng: np.random.Generator, steps: float) -> OperationTimes:
    sizes = [max(sites[name].width for name, _ in axis.shares) for axis in axes]
    rises = [rng.random(size) * (rng.random(size) > steps) for size in sizes]
    curves = [np.cumsum(rise) + 0.2 for rise in rises]
    ms = curves[0] if len(sizes) == 1 else np.multiply.outer(*curves) + np.add.outer(*curves)
    knots = tuple(tuple((n + 1) / size for n in range(size)) for size in sizes)
    times = tuple(ms.ravel().tolist())
    return OperationTimes(f"op {axes}", knots, times, times, times, (Use(axes),))


def slow_ms(operations: Sequence[OperationTimes], full: Mapping[str, int], widths: Mapping[str, int]) -> float:
    """The sum of all operations, interpolated one by one, axis after axis."""
    total = 0.0
    for operation in operations:
        for axes in (call.axes for call in operation.calls):
            ms: FloatArray = np.array(operation.median_ms).reshape([len(k) for k in operation.knots])
            for axis, knots in zip(axes, operation.knots, strict=True):
                ms = _read(ms, knots, 1 - sum(share * (1 - widths[s] / full[s]) for s, share in axis.shares))
            total += float(ms)
    return total


def _read(ms: FloatArray, knots: tuple[float, ...], at: float) -> FloatArray:
    """A table without its first axis, at one place of it."""
    if at <= knots[0]:
        return ms[0]
    for n, (low, high) in enumerate(pairwise(knots)):
        if at <= high + 1e-12:
            return ms[n] + (ms[n + 1] - ms[n]) * (at - low) / (high - low)
    raise AssertionError(at)


def ms_of(model: torch.nn.Module, inputs: Tensor) -> float:
    """What the counting timer says of a network."""
    with torch.no_grad():
        return counting(torch.device("cpu"))(lambda: model.eval()(inputs))
