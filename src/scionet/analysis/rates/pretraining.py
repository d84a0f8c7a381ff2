"""How long a network must be trained before a good subnetwork can be cut out of it, by the number of examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scionet.analysis.rates.curves import CONFIDENCE, Curve, descent
from scionet.analysis.rates.problems import Problem
from scionet.analysis.rates.two_layer import Task, TwoLayer
from scionet.errors import InvalidSetting
from scionet.seeds import seeded
from scionet.typing import FloatArray


@dataclass(frozen=True)
class Pretraining:
    """How networks are trained and pruned.

    Attributes:
        neurons: Neurons of the network.
        picks: Picks of the greedy selection.
        batch_size: Examples of a step of stochastic gradient descent.
        rate: Mean-field learning rate.
        last: The last step; networks are pruned after 0, 1, 2, 4, ... steps, and between them at half powers of two.
        level: Loss that the pruned network must reach, relative to that of predicting the mean target.
    """

    neurons: int = 300
    picks: int = 100
    batch_size: int = 32
    rate: float = 1.0
    last: int = 512
    level: float = 0.25

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidSetting: If a number is out of range.
        """
        if min(self.neurons, self.picks, self.batch_size, self.last) < 1 or not 0 < self.level < 1:
            raise InvalidSetting(f"numbers must be 1 or more, and the level inside (0, 1); given {self}")

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps after which the network is pruned."""
        powers = np.unique(np.round(2 ** np.arange(0, np.log2(self.last) + 0.01, 0.5)).astype(int))
        return (0, *powers.tolist())


@dataclass(frozen=True)
class Threshold:
    """One number of examples.

    Attributes:
        examples: Number m of examples.
        steps: Steps from which the pruned network reaches the level, for each seed; None if it does not.
        pruned: Loss of the pruned network by steps of training (from step 1), relative to the loss of predicting the
            mean target, mean over seeds.
        dense: The same of the network itself.
    """

    examples: int
    steps: tuple[float | None, ...]
    pruned: Curve
    dense: Curve


@dataclass(frozen=True)
class Growth:
    """A straight line through the thresholds, with Student's 95 % interval of its slope.

    Attributes:
        slope: Steps per unit of log m, or, of logarithms, the exponent.
        low: Lower end of the interval.
        high: Its upper end.
        explained: R².
    """

    slope: float
    low: float
    high: float
    explained: float


@dataclass(frozen=True)
class PretrainingStudy:
    """Thresholds by the number of examples.

    Attributes:
        settings: How networks were trained and pruned.
        thresholds: One entry for each number of examples.
        logarithmic: The line ``steps = a + b log m``; None if fewer than three thresholds were reached.
        power: The line ``log steps = a + b log m``, so b is the exponent of a power law.
    """

    settings: Pretraining
    thresholds: tuple[Threshold, ...]
    logarithmic: Growth | None
    power: Growth | None


def pretraining_needed(
    task: Task, counts: Sequence[int], seeds: Sequence[int], settings: Pretraining | None = None
) -> PretrainingStudy:
    """Find from which step on a network can be pruned to a given loss, for parts of a task of several sizes.

    Source: the question is that of Wolfe et al., *How much pre-training is enough to discover a good subnetwork?*,
    TMLR 2024, who prove that steps of the order of log m are enough.

    Args:
        task: All examples.
        counts: Numbers of examples.
        seeds: Seeds of the parts, of initial weights and of batches.
        settings: How networks are trained and pruned.

    Raises:
        InvalidSetting: If there are fewer examples than asked for.
    """
    settings = settings or Pretraining()
    if not counts or max(counts) > len(task.inputs) or min(counts) < 2:
        raise InvalidSetting(f"numbers of examples are from 2 to {len(task.inputs)}; given {list(counts)}")
    thresholds = tuple(_threshold(task, count, seeds, settings) for count in counts)
    points = [(t.examples, steps) for t in thresholds for steps in t.steps if steps]
    if len({examples for examples, _ in points}) < 3:
        return PretrainingStudy(settings, thresholds, None, None)
    m, steps = np.array(points).T
    return PretrainingStudy(settings, thresholds, _line(np.log(m), steps), _line(np.log(m), np.log(steps)))


def reached(steps: Sequence[int], losses: FloatArray, level: float) -> float | None:
    """The step at which losses fall to a level for good, interpolated in log loss and log step.

    None if the last loss is above the level. Step 0 stands for 1/2 on the logarithmic axis, and is the answer if all
    losses are below.
    """
    above = np.flatnonzero(losses > level)
    if not len(above):
        return 0.0
    if above[-1] == len(losses) - 1:
        return None
    logs, before = np.log(np.maximum(steps, 0.5)), int(above[-1])
    high, low = np.log(losses[before]), np.log(max(losses[before + 1], np.finfo(float).tiny))
    share = (high - np.log(level)) / (high - low)
    return float(np.exp(logs[before] + share * (logs[before + 1] - logs[before])))


def _threshold(task: Task, count: int, seeds: Sequence[int], settings: Pretraining) -> Threshold:
    paths = np.array([_path(task, count, seed, settings) for seed in seeds])
    found = tuple(reached(settings.steps, pruned, settings.level) for _, pruned in paths)
    dense, pruned = paths.mean(axis=0)[:, 1:]
    return Threshold(
        count,
        found,
        Curve.of(f"pruned, {count:,} examples", pruned, settings.steps[1:]),
        Curve.of(f"whole, {count:,} examples", dense, settings.steps[1:]),
    )


def _path(task: Task, count: int, seed: int, settings: Pretraining) -> FloatArray:
    """Losses of the network and of the pruned network after each of the steps, ``(2, steps)``."""
    rng = seeded(seed)("pretraining", count)
    chosen = rng.permutation(len(task.inputs))[:count]
    part = Task(task.inputs[chosen], task.targets[chosen])
    scale = float(((part.targets - part.targets.mean(axis=0)) ** 2).sum() / (2 * count))
    new = TwoLayer.random(settings.neurons, part.inputs.shape[1], part.targets.shape[1], rng)
    training = new.training(part, settings.rate, lambda: rng.integers(count, size=settings.batch_size))
    losses = []
    for step, network in enumerate(training):
        if step in settings.steps:
            pruned = descent(Problem(network.atoms(part.inputs), part.target), settings.picks).squares[-1] / 2
            losses.append((network.loss(part) / scale, float(pruned) / scale))
        if step == settings.last:
            break
    return np.array(losses).T


def _line(x: FloatArray, y: FloatArray) -> Growth:
    from scipy.stats import linregress, t  # slow to import

    found: Any = linregress(x, y)
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(x) - 2) * found.stderr)
    return Growth(float(found.slope), float(found.slope - half), float(found.slope + half), float(found.rvalue**2))
