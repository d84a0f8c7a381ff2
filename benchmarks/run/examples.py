"""Which images to calibrate on: ResNet-20 pruned to half of its MACs with few images, chosen in several ways.

    python -m benchmarks.run.examples --data FOLDER

For each seed 4,096 unlabelled training images are drawn; 64, 128 or 256 of them are chosen at random, by facility
location or by moments (`scionet.select_examples`), or by a function learned from sets that served well
(example_lessons.py), and the network is pruned with `prune`'s defaults on the chosen ones alone. FOLDER is that of
untrained.py. A run whose record is under benchmarks/results/examples is not run again;
`python -m benchmarks.report.tables` writes the table.

"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn

import benchmarks
from benchmarks.run.example_lessons import taught_order
from benchmarks.run.untrained import TASKS, dense, split
from scionet.bench.experiment.competitors import Comparison, Competitor, outcome
from scionet.bench.records.record import load_all, save
from scionet.budget.costs import measure
from scionet.coreset import select_examples

RESULTS = benchmarks.RESULTS / "examples"
TASK, BUDGET = TASKS["resnet20"], "macs<=50%"
POOL, SIZES = 4096, (64, 128, 256)
CHOICES = ("random", "facility location", "moments", "learned")
EXAMPLE = torch.zeros(2, 3, 32, 32)


def main(data: Path, seeds: tuple[int, ...] = (0, 1, 2, 3, 4), only: tuple[str, ...] = CHOICES) -> None:
    """CompetitorRun what has no record yet.

    Args:
        data: Folder of the archives and weights.
        seeds: Of the pool, and of random choices.
        only: Which ways to choose.
    """
    done = {(r.spec.method, r.spec.seed) for r in load_all(RESULTS)} if RESULTS.exists() else set()
    model = dense(TASK, data)
    for seed in seeds:
        wanted = [(way, size) for way in only for size in SIZES if (label(way, size), seed) not in done]
        if wanted:
            _run(model, data, seed, wanted)


def label(way: str, size: int) -> str:
    """The name of a run."""
    return f"{way}, {size} images"


def _run(model: nn.Module, data: Path, seed: int, wanted: Sequence[tuple[str, int]]) -> None:
    """All runs of one pool."""
    given, test = split(replace(TASK, images=POOL), data / TASK.archive, seed)
    pool = torch.cat([images for images, _ in given])
    worth = outcome(model, measure(model, EXAMPLE), test, bf16=True)[0]
    command = "python -m benchmarks.run.examples"
    comparison = Comparison("examples", TASK.network, TASK.dataset, model, EXAMPLE, test, worth, command, bf16=True)
    orders: dict[str, NDArray[np.int64]] = {}
    for way, size in wanted:
        if way not in orders:
            orders[way] = chosen(model, pool, way, seed)
        batches = pool[orders[way][:size]].split(64)
        record = comparison.run(Competitor(label(way, size), "forward"), batches, BUDGET, seed).record
        save(record, RESULTS)
        print(f"{label(way, size)}, seed {seed}: {record.pruned.accuracy:.4f}", flush=True)


def chosen(model: nn.Module, pool: Tensor, way: str, seed: int) -> NDArray[np.int64]:
    """The largest number of images, in the order in which they are chosen."""
    if way == "random":
        return np.random.default_rng(seed).permutation(len(pool))[: max(SIZES)]
    if way == "learned":
        return taught_order(model, pool, max(SIZES), seed)
    criterion = "moments" if way == "moments" else "facility_location"
    return select_examples(model, pool.split(128), max(SIZES), example_inputs=EXAMPLE, criterion=criterion)


if __name__ == "__main__":
    tyro.cli(main)
