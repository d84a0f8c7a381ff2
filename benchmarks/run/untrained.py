"""Accuracy of every method right after the cut, without training, on the same images and three calibration seeds.

    python -m benchmarks.run.untrained resnet20 resnet56 --data FOLDER
    python -m benchmarks.run.untrained efficientnet_lite0 --data FOLDER

FOLDER holds cifar10-jpeg.zip (CIFAR-10 as JPEG, in the layout train/class/name.jpg and test/class/name.jpg) with
resnet20-cifar10-jpeg.safetensors and resnet56-cifar10-jpeg.safetensors, and imagenet-1000.zip (wnid/name.jpg).

Records go to benchmarks/results/untrained.jsonl; a recorded run is not run again. `python -m benchmarks.report.tables`
makes the tables of README.md and docs/ from them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

import benchmarks
from benchmarks.records import pack_folder, recorded_runs
from scionet.bench.experiment.competitors import COMPETITORS, LOSS, Competitor
from scionet.bench.records.record import RunRecord, save
from scionet.bench.runs.competitor_runs import Comparison, outcome
from scionet.budget.costs import measure
from scionet.choices.methods import Forward
from scionet.choices.settings import widths_from
from scionet.choices.widths import Sensitivity
from scionet.data.batches import ImageBatches, batches
from scionet.data.folders import ImageFolder
from scionet.data.images import Preprocessing
from scionet.data.sampling import sample
from scionet.models.factory import build
from scionet.models.weight_files import load_weights

RESULTS = benchmarks.RESULTS / "untrained"
STOCHASTIC_LOSS = replace(
    LOSS,
    method=Forward("task_loss", "stochastic"),
    summary=LOSS.summary + " Stochastic candidates, epsilon 0.1.",
)


@dataclass(frozen=True)
class Task:
    """A network with its data, budgets and competitors."""

    network: str
    dataset: str
    archive: str
    weights: str | None
    preprocessing: Preprocessing
    side: int
    budgets: tuple[str, ...]
    images: int
    competitors: tuple[Competitor, ...] = COMPETITORS
    measured: int = 256


def cifar(network: str, competitors: tuple[Competitor, ...]) -> Task:
    """The task of a CIFAR ResNet: calibration on the training part, evaluation on the whole test part."""
    budgets = ("macs<=70%", "macs<=50%", "macs<=30%")
    weights = f"{network}-cifar10-jpeg.safetensors"
    data = "CIFAR-10 (JPEG)"
    return Task(network, data, "cifar10-jpeg.zip", weights, Preprocessing(), 32, budgets, 2048, competitors)


_GREY = (127 / 255, 127 / 255, 127 / 255)
_SPREAD = (128 / 255, 128 / 255, 128 / 255)
LITE = Preprocessing(256, 224, _GREY, _SPREAD, "bicubic")
TASKS = {
    "resnet20": cifar("resnet20", (*COMPETITORS, STOCHASTIC_LOSS)),
    "resnet56": cifar("resnet56", COMPETITORS),
    "efficientnet_lite0": Task(
        "efficientnet_lite0",
        "ImageNet photographs",
        "imagenet-1000.zip",
        None,
        LITE,
        224,
        ("macs<=80%", "macs<=60%", "macs<=40%"),
        500,
        measured=100,  # the photographs are few and large
    ),
}


def main(
    networks: Annotated[tuple[str, ...], tyro.conf.Positional],
    data: Path,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: tuple[str, ...] = (),
    budgets: tuple[str, ...] = (),
) -> None:
    """Do all runs that have no record yet.

    Args:
        networks: Networks out of resnet20, resnet56, efficientnet_lite0.
        data: Folder of the archives and weights.
        seeds: Calibration seeds.
        only: Names of the competitors to run; all if empty.
        budgets: Budgets out of those of the network; all if empty.
    """
    tasks = [TASKS[name] for name in networks]
    refuse_unknown(only, [competitor.label for task in tasks for competitor in task.competitors])
    refuse_unknown(budgets, [budget for task in tasks for budget in task.budgets])
    for seed in seeds:
        for task in tasks:
            _run(replace(task, budgets=tuple(b for b in task.budgets if not budgets or b in budgets)), data, seed, only)
    pack_folder(RunRecord, RESULTS)


def refuse_unknown(given: Sequence[str], allowed: Sequence[str]) -> None:
    """Exit with a message if a name is unknown.

    Raises:
        SystemExit: If a name is unknown.
    """
    if unknown := [name for name in given if name not in allowed]:
        raise SystemExit(f"unknown {unknown}; allowed: {', '.join(dict.fromkeys(allowed))}")


def _run(task: Task, data: Path, seed: int, only: Sequence[str]) -> None:
    done = {(r.spec.network, r.spec.method, r.spec.budget, r.spec.seed) for r in recorded_runs(RESULTS)}
    model = dense(task, data)
    images, test = split(task, data / task.archive, seed)
    example = torch.zeros(2, 3, task.side, task.side)
    comparison = _comparison(task, model, example, test)
    for competitor in task.competitors:
        budgets = [b for b in task.budgets if (task.network, competitor.label, b, seed) not in done]
        if not budgets or (only and competitor.label not in only):
            continue
        given = images[:2] if competitor is STOCHASTIC_LOSS else images
        measured = with_examples(competitor, task.measured)
        for record in (run.record for run in comparison.run_each(measured, given, budgets, seed)):
            save(record, RESULTS)
            found = f"{record.pruned.accuracy:.4f}"
            print(f"{task.network} {competitor.label} {record.spec.budget} seed {seed}: {found}", flush=True)


def with_examples(competitor: Competitor, count: int) -> Competitor:
    """The competitor with sensitivities measured on `count` examples, if it measures any."""
    rule = None if competitor.widths is None else widths_from(competitor.widths)
    return replace(competitor, widths=replace(rule, examples=count)) if isinstance(rule, Sensitivity) else competitor


def _comparison(task: Task, model: nn.Module, example: Tensor, test: Sequence[tuple[Tensor, Tensor]]) -> Comparison:
    command = f"python -m benchmarks.run.untrained {task.network}"
    dense_outcome = outcome(model, measure(model, example), test)[0]
    return Comparison("untrained", task.network, task.dataset, model, example, test, dense_outcome, command)


def dense(task: Task, data: Path) -> nn.Module:
    """The trained network."""
    model = build(f"scionet:{task.network}").eval()
    if task.weights is not None:
        load_weights(model, data / task.weights)
    return model


def split(task: Task, archive: Path, seed: int) -> tuple[list[Any], list[tuple[Tensor, Tensor]]]:
    """Calibration batches and labelled test batches, in channels-last format."""
    if task.weights is not None:
        return calibration(task, archive, seed), list(_load(task, ImageFolder(archive, "test"), None, 200))
    folder = ImageFolder(archive)
    rest = np.setdiff1d(np.arange(len(folder)), sample(folder, task.images, seed))
    return calibration(task, archive, seed), list(_load(task, folder, rest, 50))


def calibration(task: Task, archive: Path, seed: int) -> list[Any]:
    """Labelled calibration batches."""
    folder, size = (ImageFolder(archive, "train"), 128) if task.weights is not None else (ImageFolder(archive), 50)
    return list(_load(task, folder, sample(folder, task.images, seed), size))


def _load(task: Task, folder: ImageFolder, indices: Any, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    found: ImageBatches = batches(folder, task.preprocessing, size, indices, labels=True)
    for images, labels in found:
        yield images.contiguous(memory_format=torch.channels_last), labels


if __name__ == "__main__":
    tyro.cli(main)
