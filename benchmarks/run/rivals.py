"""Accuracy right after the cut for the pruners of Torch-Pruning, at the budgets, data and seeds of untrained.py.

    python -m benchmarks.run.rivals resnet20 resnet56 efficientnet_lite0 --data FOLDER

Only the channels inside blocks are offered to the pruners: what a padded shortcut couples they cannot cut, and on
EfficientNet-Lite0 they do better so. The pruning ratio is bisected until the MACs are as close below the budget as the
pruner comes. Every result is recorded twice: as cut, and after BatchNorm re-calibration on the calibration images.
Records go beside those of untrained.py.
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

from benchmarks.run.untrained import RESULTS, TASKS, Task, dense, load_all, split
from scionet.adapters.torch_pruning_criteria import CRITERIA, differentiate
from scionet.bench.experiment.competitors import outcome
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import Outcome, RunRecord, RunSpec, save
from scionet.budget.budget import Budget
from scionet.budget.costs import measure
from scionet.methods.repair.recalibration import recalibrated
from scionet.network.calling import hash_tensors, state_of

BISECTIONS = 8
LABELLED_BATCHES = 2


@dataclass(frozen=True, eq=False)
class Rivalry:
    """One network, one seed.

    Attributes:
        task: The network and its budgets.
        model: The dense network.
        calibration: Labelled batches.
        test: Labelled batches.
        dense: What the dense network is worth.
        seed: Of the calibration images.
    """

    task: Task
    model: nn.Module
    calibration: Sequence[tuple[Tensor, Tensor]]
    test: Sequence[tuple[Tensor, Tensor]]
    dense: Outcome
    seed: int

    @property
    def example(self) -> Tensor:
        """What the network is called on."""
        return torch.zeros(2, 3, self.task.side, self.task.side)

    def scored(self, criterion: str) -> tuple[nn.Module, Any]:
        """A copy of the network with the gradients that a criterion needs, and its importance."""
        model, importance = copy.deepcopy(self.model), CRITERIA[criterion].make()
        if kind := CRITERIA[criterion].gradients:
            differentiate(model, importance, self.calibration[:LABELLED_BATCHES], kind == "single")
        return model, importance

    def cut(self, scored: tuple[nn.Module, Any], ratio: float, across: bool) -> nn.Module:
        """The network pruned at one ratio, by ranking within each layer or across all."""
        model, importance = copy.deepcopy(scored)  # together: what is accumulated goes by parameters
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
        """The largest network below the budget that some pruning ratio gives."""
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
        """As cut, and re-calibrated."""
        start = perf_counter()
        pruned = self.nearest(criterion, budget, across)
        seconds = perf_counter() - start
        plain = self.record(pruned, label(criterion, across, False), criterion, budget, seconds)
        start = perf_counter()
        with torch.no_grad():
            for name, tensor in recalibrated(pruned, {}, [x for x, _ in self.calibration]).items():
                state_of(pruned)[name].copy_(tensor)
        seconds += perf_counter() - start
        return plain, self.record(pruned, label(criterion, across, True), criterion, budget, seconds)

    def record(self, pruned: nn.Module, name: str, criterion: str, budget: str, seconds: float) -> RunRecord:
        """What came out of one run."""
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
    """The name in tables."""
    return f"torch-pruning {criterion}{' (global)' if across else ''}{' + re-calibration' if recalibrated else ''}"


def main(
    networks: Annotated[tuple[str, ...], tyro.conf.Positional],
    data: Path,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: tuple[str, ...] = tuple(CRITERIA),
) -> None:
    """CompetitorRun what has no record yet.

    Args:
        networks: Which of resnet20, resnet56, efficientnet_lite0.
        data: Folder of the archives and weights.
        seeds: Calibration seeds.
        only: Criteria to run.
    """
    for seed in seeds:
        for name in networks:
            _run(TASKS[name], data, seed, only)


def _run(task: Task, data: Path, seed: int, only: Sequence[str]) -> None:
    done = {(r.spec.network, r.spec.method, r.spec.budget, r.spec.seed) for r in load_all(RESULTS)}
    model = dense(task, data)
    images, test = split(task, data / task.archive, seed)
    worth = outcome(model, measure(model, torch.zeros(2, 3, task.side, task.side)), test, bf16=True)[0]
    rivalry = Rivalry(task, model, images, test, worth, seed)
    for criterion in only:
        for across in (False, True):
            for budget in task.budgets:
                if (task.network, label(criterion, across, True), budget, seed) not in done:
                    for record in rivalry.records(criterion, budget, across):
                        save(record, RESULTS)
                        accuracy = f"{record.pruned.accuracy:.4f}, MACs {record.pruned.macs / worth.macs:.4f}"
                        print(f"{task.network} {record.spec.method} {budget} seed {seed}: {accuracy}", flush=True)


def _weighted(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


def _inside(name: str) -> bool:
    """Whether a layer makes, or passes on, channels that stay within a block of a CIFAR ResNet or an EfficientNet."""
    return (name.startswith("layer") and name.endswith("conv1")) or name.endswith(("_expand_conv", "_depthwise_conv"))


if __name__ == "__main__":
    tyro.cli(main)
