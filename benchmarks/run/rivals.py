"""Accuracy of the pruners of Torch-Pruning without training, at the budgets, data and seeds of untrained.py.

    python -m benchmarks.run.rivals resnet20 resnet56 efficientnet_lite0 --data FOLDER

The pruners may cut only channels inside blocks: they cannot cut channels that a padded shortcut couples, and they do
better with this restriction on EfficientNet-Lite0. The pruning ratio is bisected to bring the MACs as close below the
budget as possible. Each result has two records: right after the cut, and after BatchNorm recalibration on the
calibration images. Records go to the same file as those of untrained.py.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import torch_pruning as tp
import tyro
from torch import Tensor, nn

from benchmarks.records import pack_folder, recorded_runs
from benchmarks.run.untrained import RESULTS, TASKS, Task, dense, split
from scionet.adapters.torch_pruning_criteria import CRITERIA, differentiate
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import Outcome, RunRecord, RunSpec, save
from scionet.bench.runs.competitor_runs import outcome
from scionet.budget.budget import Budget
from scionet.budget.costs import measure
from scionet.files.safetensors_files import hash_tensors
from scionet.methods.repair.recalibration import norm_statistics
from scionet.network.calling import state_of

BISECTIONS = 8
LABELLED_BATCHES = 2


@dataclass(frozen=True, eq=False)
class PrunerRuns:
    """The runs of all pruners on one network with one seed.

    Attributes:
        task: The network and its budgets.
        model: The dense network.
        calibration: Labelled batches.
        test: Labelled batches.
        dense: Cost and accuracy of the dense network.
        seed: Seed of the calibration images.
    """

    task: Task
    model: nn.Module
    calibration: Sequence[tuple[Tensor, Tensor]]
    test: Sequence[tuple[Tensor, Tensor]]
    dense: Outcome
    seed: int

    @property
    def example(self) -> Tensor:
        """Example input of the network."""
        return torch.zeros(2, 3, self.task.side, self.task.side)

    def scored(self, criterion: str) -> tuple[nn.Module, Any]:
        """Copy the network with the gradients that a criterion needs; return the copy and the importance."""
        model, importance = copy.deepcopy(self.model), CRITERIA[criterion].make()
        if kind := CRITERIA[criterion].gradients:
            differentiate(model, importance, self.calibration[:LABELLED_BATCHES], kind == "single")
        return model, importance

    def cut(self, scored: tuple[nn.Module, Any], ratio: float, across: bool) -> nn.Module:
        """Prune at one ratio, with units ranked within each layer or across all layers."""
        model, importance = copy.deepcopy(scored)  # together: accumulated gradients refer to the parameters
        ignored = [m for name, m in model.named_modules() if _weighted(m) and not _inside(name)]
        pruner = tp.pruner.BasePruner(
            model,
            self.example,
            importance=importance,
            pruning_ratio=ratio,
            global_pruning=across,
            ignored_layers=ignored,
        )
        for own, given in zip(model.parameters(), scored[0].parameters(), strict=True):
            own.grad = None if given.grad is None else given.grad.clone()  # the pruner's tracing has cleared it
        pruner.step()
        model.zero_grad()
        return model

    def nearest(self, criterion: str, budget: str, across: bool) -> nn.Module:
        """Find the largest network within the budget by bisection of the pruning ratio."""
        limit, dense = Budget.of(budget), measure(self.model, self.example)
        low, high, best, scored = 0.0, 1.0, None, self.scored(criterion)
        for _ in range(BISECTIONS):
            ratio = (low + high) / 2
            found = self.cut(scored, ratio, across)
            if limit.met(measure(found, self.example), dense):
                high, best = ratio, found
            else:
                low = ratio
        assert best is not None, f"{criterion} does not reach {budget}"
        return best

    def records(self, criterion: str, budget: str, across: bool) -> tuple[RunRecord, RunRecord]:
        """The records right after the cut and after recalibration."""
        start = perf_counter()
        pruned = self.nearest(criterion, budget, across)
        seconds = perf_counter() - start
        plain = self.record(pruned, label(criterion, across, False), criterion, budget, seconds)
        start = perf_counter()
        with torch.no_grad():
            for name, tensor in norm_statistics(pruned, {}, [x for x, _ in self.calibration]).items():
                state_of(pruned)[name].copy_(tensor)
        seconds += perf_counter() - start
        return plain, self.record(pruned, label(criterion, across, True), criterion, budget, seconds)

    def record(self, pruned: nn.Module, name: str, criterion: str, budget: str, seconds: float) -> RunRecord:
        """The record of one run."""
        spec = RunSpec("untrained", self.task.network, self.task.dataset, name, budget, self.seed)
        command = f"python -m benchmarks.run.rivals {self.task.network}"
        return RunRecord(
            spec=spec,
            dense=self.dense,
            pruned=outcome(pruned, measure(pruned, self.example), self.test, bf16=True)[0],
            seconds=seconds,
            sites=(),
            provenance=Provenance.here(datetime.now(UTC).date().isoformat(), command, torch.get_num_threads()),
            dense_hash=hash_tensors(state_of(self.model)),
            plan_hash=hash_tensors(state_of(pruned)),
            summary=f"Torch-Pruning {tp.__version__}: {CRITERIA[criterion].summary}",
            notes=("accuracy measured in bfloat16 (autocast)",),
        )


def label(criterion: str, across: bool, recalibrated: bool) -> str:
    """The name of a pruner in tables."""
    return f"torch-pruning {criterion}{' (global)' if across else ''}{' + recalibration' if recalibrated else ''}"


def main(
    networks: Annotated[tuple[str, ...], tyro.conf.Positional],
    data: Path,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: tuple[str, ...] = tuple(CRITERIA),
) -> None:
    """Do all runs that have no record yet.

    Args:
        networks: Networks out of resnet20, resnet56, efficientnet_lite0.
        data: Folder of the archives and weights.
        seeds: Calibration seeds.
        only: Criteria to run.
    """
    for seed in seeds:
        for name in networks:
            _run(TASKS[name], data, seed, only)
    pack_folder(RunRecord, RESULTS)


def _run(task: Task, data: Path, seed: int, only: Sequence[str]) -> None:
    done = {(r.spec.network, r.spec.method, r.spec.budget, r.spec.seed) for r in recorded_runs(RESULTS)}
    model = dense(task, data)
    images, test = split(task, data / task.archive, seed)
    dense_outcome = outcome(model, measure(model, torch.zeros(2, 3, task.side, task.side)), test, bf16=True)[0]
    runs = PrunerRuns(task, model, images, test, dense_outcome, seed)
    for criterion in only:
        for across in (False, True):
            for budget in task.budgets:
                if (task.network, label(criterion, across, True), budget, seed) not in done:
                    for record in runs.records(criterion, budget, across):
                        if (task.network, record.spec.method, budget, seed) in done:
                            continue  # a former process ended between the two
                        save(record, RESULTS)
                        accuracy = f"{record.pruned.accuracy:.4f}, MACs {record.pruned.macs / dense_outcome.macs:.4f}"
                        print(f"{task.network} {record.spec.method} {budget} seed {seed}: {accuracy}", flush=True)


def _weighted(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


def _inside(name: str) -> bool:
    """Whether the channels of a layer stay within a block of a CIFAR ResNet or an EfficientNet."""
    return (name.startswith("layer") and name.endswith("conv1")) or name.endswith(("_expand_conv", "_depthwise_conv"))


if __name__ == "__main__":
    tyro.cli(main)
