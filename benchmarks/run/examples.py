"""The choice of calibration images: ResNet-20 is pruned to half its MACs with few images, chosen in several ways.

    python -m benchmarks.run.examples --data FOLDER

For each seed, 4,096 unlabelled training images are sampled. Of these, 64, 128 or 256 are chosen: at random, by facility
location or by moments (`scionet.select_examples`), or by a learned function (example_lessons.py). The network is pruned
with the defaults of `prune` on the chosen images alone. FOLDER is that of untrained.py. Records go to
benchmarks/results/examples.jsonl; a recorded run is not run again. `python -m benchmarks.report.tables` writes the
table.
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
from benchmarks.records import pack_folder, recorded_runs
from benchmarks.run.example_lessons import learned_order
from benchmarks.run.untrained import TASKS, dense, split
from scionet.bench.experiment.competitors import Competitor
from scionet.bench.records.record import RunRecord, save
from scionet.bench.runs.competitor_runs import Comparison, outcome
from scionet.budget.costs import measure
from scionet.coreset import select_examples

RESULTS = benchmarks.RESULTS / "examples"
TASK, BUDGET = TASKS["resnet20"], "macs<=50%"
POOL, SIZES = 4096, (64, 128, 256)
CHOICES = ("random", "facility location", "moments", "learned")
EXAMPLE = torch.zeros(2, 3, 32, 32)


def main(data: Path, seeds: tuple[int, ...] = (0, 1, 2, 3, 4), only: tuple[str, ...] = CHOICES) -> None:
    """Do all runs that have no record yet.

    Args:
        data: Folder of the archives and weights.
        seeds: Seeds of the pool and of random choices.
        only: Ways to choose images.
    """
    done = {(r.spec.method, r.spec.seed) for r in recorded_runs(RESULTS)}
    model = dense(TASK, data)
    for seed in seeds:
        wanted = [(way, size) for way in only for size in SIZES if (label(way, size), seed) not in done]
        if wanted:
            _run(model, data, seed, wanted)
    pack_folder(RunRecord, RESULTS)


def label(way: str, size: int) -> str:
    """The name of a run."""
    return f"{way}, {size} images"


def _run(model: nn.Module, data: Path, seed: int, wanted: Sequence[tuple[str, int]]) -> None:
    """Do all runs on the pool of one seed."""
    given, test = split(replace(TASK, images=POOL), data / TASK.archive, seed)
    pool = torch.cat([images for images, _ in given])
    dense_outcome = outcome(model, measure(model, EXAMPLE), test, bf16=True)[0]
    command = "python -m benchmarks.run.examples"
    comparison = Comparison(
        "examples", TASK.network, TASK.dataset, model, EXAMPLE, test, dense_outcome, command, bf16=True
    )
    orders: dict[str, NDArray[np.int64]] = {}
    for way, size in wanted:
        if way not in orders:
            orders[way] = chosen(model, pool, way, seed)
        batches = pool[orders[way][:size]].split(64)
        record = comparison.run(Competitor(label(way, size), "forward"), batches, BUDGET, seed).record
        save(record, RESULTS)
        print(f"{label(way, size)}, seed {seed}: {record.pruned.accuracy:.4f}", flush=True)


def chosen(model: nn.Module, pool: Tensor, way: str, seed: int) -> NDArray[np.int64]:
    """The images of the largest set, in the order in which they are chosen."""
    if way == "random":
        return np.random.default_rng(seed).permutation(len(pool))[: max(SIZES)]
    if way == "learned":
        return learned_order(model, pool, max(SIZES), seed)
    criterion = "moments" if way == "moments" else "facility_location"
    return select_examples(model, pool.split(128), max(SIZES), example_inputs=EXAMPLE, criterion=criterion)


if __name__ == "__main__":
    tyro.cli(main)
