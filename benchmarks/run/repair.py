"""Accuracy by choice of repair and widths, at half the MACs, without training.

    python -m benchmarks.run.repair resnet20 vgg --data FOLDER --weights vgg.safetensors

FOLDER is that of untrained.py. `vgg` is a chain of six convolutions for CIFAR-10; it is trained for ten epochs if its
weights file does not exist. Greedy forward selection runs with its defaults and one changed choice at a time, on the
same images. Records go to benchmarks/results/repair.jsonl; a recorded run is not run again.
`python -m benchmarks.report.tables` writes the table in docs/repair.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from safetensors.torch import save_file
from torch import nn

import benchmarks
from benchmarks.records import pack_folder, recorded_runs
from benchmarks.run.untrained import TASKS, Task, dense, refuse_unknown, split
from scionet.bench.experiment.competitors import Competitor
from scionet.bench.records.record import RunRecord, save
from scionet.bench.runs.competitor_runs import Comparison, outcome
from scionet.budget.costs import measure
from scionet.choices.methods import Forward
from scionet.choices.repair import Reconstruct, Refit
from scionet.choices.widths import Sensitivity
from scionet.data.augmentation import Augmentation
from scionet.data.images import Preprocessing
from scionet.data.sources import read_source
from scionet.models.vgg import Vgg, pooled
from scionet.models.weight_files import load_weights
from scionet.training.execution import Execution
from scionet.training.fit import fit
from scionet.training.recipes import Recipe

RESULTS = benchmarks.RESULTS / "repair"
BUDGET = "macs<=50%"
DEFAULTS = "defaults"
GREEDY = Competitor(DEFAULTS, Forward(), "sensitivity", ("refit",))
SWITCHES: Mapping[str, Competitor] = {
    DEFAULTS: GREEDY,
    "repair=[]": replace(GREEDY, repair=()),
    "repair=['recalibrate']": replace(GREEDY, repair=("recalibrate",)),
    "repair=['refit', 'recalibrate']": replace(GREEDY, repair=("refit", "recalibrate")),
    "Refit(asymmetric=False)": replace(GREEDY, repair=(Refit(asymmetric=False),)),
    "Refit(shortcuts=False)": replace(GREEDY, repair=(Refit(shortcuts=False),)),
    "Refit(shrinkage=0.0)": replace(GREEDY, repair=(Refit(shrinkage=0.0),)),
    "Refit(shrinkage='held_out')": replace(GREEDY, repair=(Refit(shrinkage="held_out"),)),
    "Forward(passes=2)": replace(GREEDY, method=Forward(passes=2)),
    "Sensitivity(widths_per_site=3)": replace(GREEDY, widths=Sensitivity(widths_per_site=3)),
    "Reconstruct(steps=300)": replace(GREEDY, repair=("refit", Reconstruct(steps=300))),
}
"""The defaults of `prune` with data, and one change each, as a user writes it."""
FEW = 128
"""Size of the small calibration set. It has images of every batch, because images are sorted by class."""
FEWER = (DEFAULTS, "Refit(shrinkage=0.0)", "Refit(shrinkage='held_out')")
"""Choices that are also run on `FEW` images."""
RECIPE = Recipe(epochs=10, batch_size=128, learning_rate=0.1, augmentation="shift", warmup_epochs=1)


def main(
    networks: Annotated[tuple[Literal["resnet20", "vgg"], ...], tyro.conf.Positional],
    data: Path,
    weights: Path = Path("vgg.safetensors"),
    seeds: tuple[int, ...] = (0, 1, 2),
    only: tuple[str, ...] = (),
) -> None:
    """Do all runs that have no record yet.

    Args:
        networks: Networks to run.
        data: Folder of the archives and weights.
        weights: File of the weights of `vgg`; written if it does not exist.
        seeds: Calibration seeds.
        only: Choices to run; all if empty.
    """
    refuse_unknown(only, [*SWITCHES])
    done = {(r.spec.network, r.spec.method, r.spec.seed) for r in recorded_runs(RESULTS)}
    task = TASKS["resnet20"]
    for network in networks:
        model = dense(task, data) if network == "resnet20" else vgg(data / task.archive, weights)
        for seed in seeds:
            missing = [(c, few) for c, few in competitors(only) if (network, c.label, seed) not in done]
            _run(network, model, task, data, seed, missing)
    pack_folder(RunRecord, RESULTS)


def competitors(only: tuple[str, ...]) -> list[tuple[Competitor, bool]]:
    """Greedy selection with one changed choice each, and whether it runs on `FEW` images."""
    found = [(label, label, False) for label in SWITCHES] + [(label, few_images(label), True) for label in FEWER]
    return [
        (replace(SWITCHES[label], label=name, summary=f"Greedy least squares; {label}."), few)
        for label, name, few in found
        if not only or label in only
    ]


def few_images(label: str) -> str:
    """The name of a choice that is run on `FEW` images."""
    return f"{label}, {FEW} images"


def _run(
    network: str, model: nn.Module, task: Task, data: Path, seed: int, missing: list[tuple[Competitor, bool]]
) -> None:
    if not missing:
        return
    images, test = split(task, data / task.archive, seed)
    example = torch.zeros(2, 3, task.side, task.side)
    dense_outcome = outcome(model, measure(model, example), test)[0]
    command = f"python -m benchmarks.run.repair {network}"
    comparison = Comparison("repair", network, task.dataset, model, example, test, dense_outcome, command)
    for competitor, few in missing:
        given = [(x[: FEW // len(images)], y[: FEW // len(images)]) for x, y in images] if few else images
        record = comparison.run(competitor, given, BUDGET, seed).record
        save(record, RESULTS)
        print(f"{network} {competitor.label} seed {seed}: {record.pruned.accuracy:.4f}", flush=True)


def vgg(archive: Path, weights: Path) -> nn.Module:
    """A chain of six convolutions with BatchNorm and no residual stream; trained if the weights file does not exist."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Vgg((32, 32, None, 64, 64, None, 128, 128), True, pooled(128, 10))
    if weights.exists():
        load_weights(model, weights)
        return model.eval()
    source = read_source(f"images:{archive}", Preprocessing(), Path()).train
    fit(
        model,
        source.choose(range(source.count), Augmentation("shift")),
        RECIPE,
        execution=Execution(precision="bf16", channels_last=True),
        progress=True,
    )
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
    return model.eval()


if __name__ == "__main__":
    tyro.cli(main)
