"""Greedy selection from random neurons, by their number: how many make up for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scionet.analysis.rates.curves import Curve, Slope, descent, over_seeds, slope
from scionet.analysis.rates.geometry import Geometry
from scionet.analysis.rates.problems import Problem
from scionet.analysis.rates.scratch import STANDARD
from scionet.analysis.rates.two_layer import Task, TwoLayer, taught
from scionet.seeds import seeded

SIZES = (300, 1000, 3000)
OUTPUT_SCALE = 3.0
"""Output weights of random neurons are N(0, 1) times this; the wider they are, the larger the hull."""
WINDOW = (100, 1000)
POINTS, DIMENSION, TEACHERS = 100, 5, 6


@dataclass(frozen=True)
class Neurons:
    """Greedy selection from the neurons of one kind of network.

    Attributes:
        label: Its name.
        curve: Half the mean squared error by picks, mean over seeds.
        slope: Its slope over seeds.
        geometry: The targets among the neurons, first seed.
    """

    label: str
    curve: Curve
    slope: Slope
    geometry: Geometry


def from_random_neurons(
    task_of: Callable[[int], Task], seeds: Sequence[int], sizes: Sequence[int] = SIZES
) -> tuple[Neurons, ...]:
    """Select from random neurons of each number, and from 1,000 trained ones for comparison.

    Args:
        task_of: The task of each seed.
        seeds: Seeds of tasks and networks.
        sizes: Numbers of random neurons.
    """
    found = [_selected(f"{size:,} random neurons", task_of, seeds, _random_of(size)) for size in sizes]
    return (*found, _selected(f"{STANDARD.large:,} trained neurons", task_of, seeds, _trained))


def few_teachers(seed: int) -> Task:
    """The outputs of six random tanh neurons on 100 examples in five dimensions."""
    return taught(POINTS, DIMENSION, seed, TEACHERS, 1.0)


def _selected(
    label: str, task_of: Callable[[int], Task], seeds: Sequence[int], network_of: Callable[[Task, int], TwoLayer]
) -> Neurons:
    tasks = [task_of(seed) for seed in seeds]
    problems = [
        Problem(network_of(task, seed).atoms(task.inputs), task.target) for task, seed in zip(tasks, seeds, strict=True)
    ]
    losses = np.array([descent(problem, WINDOW[1]).squares / 2 for problem in problems])
    first, last = WINDOW
    n = np.arange(first, last + 1)
    slopes = over_seeds([slope(n, each[first - 1 : last]) for each in losses], first, last)
    return Neurons(label, Curve.of(label, losses.mean(axis=0)), slopes, Geometry.of(problems[0]))


def _random_of(size: int) -> Callable[[Task, int], TwoLayer]:
    def network(task: Task, seed: int) -> TwoLayer:
        rng = seeded(seed)("random neurons", size)
        return TwoLayer.random(size, task.inputs.shape[1], task.targets.shape[1], rng, OUTPUT_SCALE)

    return network


def _trained(task: Task, seed: int) -> TwoLayer:
    new = TwoLayer.random(STANDARD.large, task.inputs.shape[1], task.targets.shape[1], seeded(seed)("trained neurons"))
    return new.trained(task, STANDARD.steps, STANDARD.rate)
