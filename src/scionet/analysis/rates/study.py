"""All measurements of rates, on planted problems, on labelled pictures and at the sites of a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar, get_args

from scionet.analysis.rates.imitation import SiteImitation
from scionet.analysis.rates.pictures import two_groups
from scionet.analysis.rates.planted import POINTS, POLYTOPES, Planted, interior, tanh_neurons, tight
from scionet.analysis.rates.pretraining import PretrainingStudy, pretraining_needed
from scionet.analysis.rates.scratch import LONGER, STANDARD, ScratchComparison, compared, teacher_task
from scionet.analysis.rates.two_layer import Task
from scionet.analysis.rates.untrained import Neurons, few_teachers, from_random_neurons
from scionet.errors import InvalidSetting, unknown
from scionet.progress import Progress, silent
from scionet.seeds import seeded

PartName = Literal["planted", "scratch", "random", "pretraining", "sites"]
Value = TypeVar("Value")
SEEDS = 3
TAUGHT = 100
"""Examples of the comparison of pruned networks with networks trained from scratch."""
PRETRAINED = (64, 128, 256, 512, 1024)
"""Numbers of examples on which networks are trained before they are pruned; those that the data have are used."""

NEEDED = {"scratch": TAUGHT, "pretraining": PRETRAINED[2]}
"""Fewest pictures of the parts that are measured on pictures."""


@dataclass(frozen=True)
class RatesStudy:
    """What was measured; parts that were not asked for are empty.

    Attributes:
        seeds: Seeds of random problems and networks.
        planted: Problems with known geometry.
        scratch: Pruned networks and networks trained from scratch.
        random: Greedy selection from random neurons.
        pretraining: Training needed before pruning.
        sites: Local imitation at the sites of a network.
    """

    seeds: tuple[int, ...]
    planted: tuple[Planted, ...] = ()
    scratch: tuple[ScratchComparison, ...] = ()
    random: tuple[Neurons, ...] = ()
    pretraining: PretrainingStudy | None = None
    sites: tuple[SiteImitation, ...] = ()


def measured(
    task: Task,
    sites: Callable[[], Sequence[SiteImitation]],
    parts: Sequence[str],
    seed: int = 0,
    progress: Progress = silent,
) -> RatesStudy:
    """Measure the parts.

    Args:
        task: Pictures as a regression task.
        sites: Measures the sites of a network.
        parts: Names of the parts.
        seed: Root of all randomness.
        progress: Called with the part, the steps done and the steps in total.

    Raises:
        InvalidSetting: If a part is unknown, or there are too few pictures.
        AnalysisError: If a solver did not converge.
    """
    for part in parts:
        if part not in get_args(PartName):
            raise unknown("part of the analysis", part, get_args(PartName))
        if len(task.inputs) < (needed := NEEDED.get(part, 0)):
            raise InvalidSetting(f"part {part!r} needs {needed} pictures or more; given {len(task.inputs)}")
    seeds = tuple(range(seed, seed + SEEDS))
    counts = [count for count in PRETRAINED if count <= len(task.inputs)]
    measures: Mapping[str, Callable[[], Any]] = {
        "planted": lambda: _each("planted problems", _planted(seeds), progress),
        "scratch": lambda: _each("pruned or scratch", _scratch(task, seeds), progress),
        "random": lambda: from_random_neurons(few_teachers, seeds),
        "pretraining": lambda: pretraining_needed(task, counts, seeds),
        "sites": lambda: tuple(sites()),
    }
    found = {}
    for done, part in enumerate(parts):
        progress("parts", done, len(parts))
        found[part] = measures[part]()
    progress("parts", len(parts), len(parts))
    return RatesStudy(seeds, **found)


def _planted(seeds: Sequence[int]) -> list[Callable[[], Planted]]:
    return [
        tight,
        *(partial(interior, dimension, norm, seeds) for dimension, norm in POLYTOPES),
        *(partial(tanh_neurons, points, seeds) for points in POINTS),
    ]


def _scratch(task: Task, seeds: Sequence[int]) -> list[Callable[[], ScratchComparison]]:
    """The teacher's task for the standard and for a longer training, and the pictures: two groups, and all classes."""

    def of_pictures(seed: int) -> Task:
        chosen = seeded(seed)("rates", "pictures").permutation(len(task.inputs))[:TAUGHT]
        return Task(task.inputs[chosen], task.targets[chosen])

    fewer = replace(STANDARD, sizes=STANDARD.sizes[:-1], runs=1)
    return [
        partial(compared, "teacher of 500 neurons", teacher_task(TAUGHT, 20), seeds),
        partial(compared, "teacher, trained longer", teacher_task(TAUGHT, 5), seeds[:1], LONGER),
        partial(compared, "pictures, two groups of classes", lambda seed: two_groups(of_pictures(seed)), seeds, fewer),
        partial(compared, f"pictures, {task.targets.shape[1]} classes", of_pictures, seeds, fewer),
    ]


def _each(stage: str, makers: Sequence[Callable[[], Value]], progress: Progress) -> tuple[Value, ...]:
    found = []
    for done, make in enumerate(makers, 1):
        found.append(make())
        progress(stage, done, len(makers))
    return tuple(found)
