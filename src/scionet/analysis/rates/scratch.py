"""Pruned or trained from scratch: networks of equal size, one cut out of a large network, one trained by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scionet.analysis.rates.curves import Curve, Slope, descent, over_seeds, slope
from scionet.analysis.rates.geometry import Geometry
from scionet.analysis.rates.problems import Problem
from scionet.analysis.rates.two_layer import Task, TwoLayer, taught
from scionet.errors import InvalidSetting
from scionet.seeds import seeded
from scionet.typing import FloatArray


@dataclass(frozen=True)
class Protocol:
    """How large and small networks are trained: gradient descent on all examples, with the same steps and rate.

    Attributes:
        steps: Gradient steps of every network, large or small.
        rate: Mean-field learning rate.
        large: Neurons of the large network, which is pruned.
        picks: Picks of the greedy selection, with repetition and weights 1/n; nothing is fine-tuned.
        sizes: Neurons of the networks trained from scratch.
        runs: Networks trained from scratch for each size and seed.
        windows: First and last n of the slopes.
    """

    steps: int = 300
    rate: float = 0.5
    large: int = 1000
    picks: int = 1000
    sizes: tuple[int, ...] = (20, 40, 80, 160, 320, 640, 1000)
    runs: int = 2
    windows: tuple[tuple[int, int], ...] = ((20, 320), (100, 1000))

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidSetting: If there are no steps or too few sizes, or a window ends behind the last pick.
        """
        if self.steps < 1 or len(self.sizes) < 2 or min(self.sizes) < 1 or self.runs < 1:
            raise InvalidSetting(f"a comparison needs steps, two sizes or more, and runs; given {self}")
        if max(last for _, last in self.windows) > self.picks:
            raise InvalidSetting(f"windows end at the last pick or before; given {self.windows} and {self.picks} picks")


STANDARD = Protocol()
LONGER = replace(STANDARD, steps=6000, sizes=(20, 40, 80, 160, 320), picks=320, runs=1, windows=((20, 320),))
"""Twenty times as many steps. In few dimensions, small networks then interpolate."""


@dataclass(frozen=True)
class ScratchComparison:
    """Half the mean squared errors of pruned networks and of networks trained from scratch.

    Attributes:
        label: Name of the task.
        examples: Number of examples.
        protocol: How networks were trained.
        dense: Loss of the large network, mean over seeds.
        pruned: Loss of the pruned network by picks, mean over seeds.
        scratch: Loss of networks trained from scratch by neurons, mean over seeds and runs.
        pruned_slopes: Slopes of `pruned` over seeds, for each window of the protocol.
        scratch_slope: Slope over the sizes within the first window.
        crossover: Size from which on the pruned network is better; None if it is not, or is at all sizes.
        pruned_ahead: Number of sizes at which the pruned network is better.
        geometry: The targets among the large network's neurons; first seed.
    """

    label: str
    examples: int
    protocol: Protocol
    dense: float
    pruned: Curve
    scratch: Curve
    pruned_slopes: tuple[Slope, ...]
    scratch_slope: Slope
    crossover: float | None
    pruned_ahead: int
    geometry: Geometry


def compared(
    label: str, task_of: Callable[[int], Task], seeds: Sequence[int], protocol: Protocol = STANDARD
) -> ScratchComparison:
    """Train, prune and compare.

    Args:
        label: Name of the task.
        task_of: The task of each seed.
        seeds: Seeds of tasks and networks.
        protocol: How networks are trained.
    """
    tasks = [task_of(seed) for seed in seeds]
    large = [_trained(task, protocol.large, seed, protocol) for task, seed in zip(tasks, seeds, strict=True)]
    problems = [Problem(net.atoms(task.inputs), task.target) for net, task in zip(large, tasks, strict=True)]
    pruned = np.array([descent(problem, protocol.picks).squares / 2 for problem in problems])
    scratch = np.array([_scratch(task, seed, protocol) for task, seed in zip(tasks, seeds, strict=True)])
    first, last = protocol.windows[0]
    inside = np.array([first <= size <= last for size in protocol.sizes])
    sizes = np.array(protocol.sizes)
    at_sizes = pruned.mean(axis=0)[sizes[sizes <= protocol.picks] - 1]
    return ScratchComparison(
        label,
        len(tasks[0].inputs),
        protocol,
        float(np.mean([net.loss(task) for net, task in zip(large, tasks, strict=True)])),
        Curve.of("pruned from the large network", pruned.mean(axis=0)),
        Curve.of("trained from scratch", scratch.mean(axis=0), protocol.sizes),
        tuple(
            over_seeds([slope(np.arange(a, b + 1), each[a - 1 : b]) for each in pruned], a, b)
            for a, b in protocol.windows
        ),
        over_seeds([slope(sizes[inside], each[inside]) for each in scratch], first, last),
        crossover(sizes, at_sizes, scratch.mean(axis=0)),
        int((at_sizes < scratch.mean(axis=0)[: len(at_sizes)]).sum()),
        Geometry.of(problems[0]),
    )


def teacher_task(points: int, dimension: int) -> Callable[[int], Task]:
    """Random tasks of the protocol: the outputs of 500 random tanh neurons."""
    return lambda seed: taught(points, dimension, seed)


def crossover(sizes: Sequence[int] | FloatArray, pruned: FloatArray, scratch: FloatArray) -> float | None:
    """The size from which on the pruned network is better, interpolated on logarithmic axes; None if there is none.

    Args:
        sizes: Sizes, ascending.
        pruned: Losses of pruned networks at these sizes; may end earlier.
        scratch: Losses of networks trained from scratch.
    """
    ahead = np.log(scratch[: len(pruned)]) - np.log(pruned)
    if ahead[-1] <= 0 or np.all(ahead > 0):
        return None
    before = int(np.flatnonzero(ahead <= 0)[-1])
    share = ahead[before] / (ahead[before] - ahead[before + 1])
    logs = np.log(np.asarray(sizes, dtype=float))
    return float(np.exp(logs[before] + share * (logs[before + 1] - logs[before])))


def _scratch(task: Task, seed: int, protocol: Protocol) -> list[float]:
    """Mean loss of networks of each size."""
    return [
        float(np.mean([_trained(task, size, seed, protocol, run).loss(task) for run in range(1, protocol.runs + 1)]))
        for size in protocol.sizes
    ]


def _trained(task: Task, size: int, seed: int, protocol: Protocol, run: int = 0) -> TwoLayer:
    rng = seeded(seed)("two-layer", size, run)
    new = TwoLayer.random(size, task.inputs.shape[1], task.targets.shape[1], rng)
    return new.trained(task, protocol.steps, protocol.rate)
