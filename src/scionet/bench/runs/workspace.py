"""What the runs of an experiment share: its folder, its data, and the dense network."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from scionet.bench.experiment.experiment import Experiment
from scionet.bench.experiment.parts import NetworkSource, Trial
from scionet.bench.records.archive import SUFFIX
from scionet.bench.records.ledger import Payment
from scionet.bench.records.record import Outcome, RunRecord, RunSpec, load
from scionet.bench.records.record_files import RecordError
from scionet.bench.records.store import load_all
from scionet.bench.runs.competitor_runs import outcome
from scionet.bench.runs.data import RunData
from scionet.bench.runs.learning import Trainer, learn
from scionet.budget.costs import measure
from scionet.files.safetensors_files import SealedFormat
from scionet.files.versioned import Format
from scionet.models.factory import build as build_model
from scionet.models.weight_files import load_tensors, load_weights
from scionet.network.calling import Batch, first_of
from scionet.training.execution import Execution

DENSE = SealedFormat(
    "scionet_dense", "dense network of the bench", "scionet bench run", Format(2, (), "Remove it, and it is made again")
)
"""Files of dense networks: what is recorded of them, and their weights if they were trained here."""


@dataclass(frozen=True, eq=False)
class Workspace:
    """An experiment, its data and its folder.

    Attributes:
        experiment: The experiment.
        data: Folder that the paths of data and weights are relative to.
        out: Folder of records, networks and work in progress.
        execution: How trainings are computed.
        command: The command that reproduces the records.
    """

    experiment: Experiment
    data: Path
    out: Path
    execution: Execution
    command: str

    @property
    def records(self) -> Path:
        """Folder of the records, one file per run."""
        return self.out / "records"

    @cached_property
    def packed(self) -> Mapping[str, RunRecord]:
        """The records in the packed file of `scionet bench pack`, by file name; read once.

        Raises:
            RecordError: If the file is damaged.
        """
        path = self.records.with_suffix(SUFFIX)
        return {record.file_name: record for record in load_all(path)} if path.exists() else {}

    def is_recorded(self, spec: RunSpec) -> bool:
        """Whether a run has a record, in a file of its own or in the packed file."""
        return (self.records / spec.file_name).exists() or spec.file_name in self.packed

    def record(self, spec: RunSpec) -> RunRecord:
        """The record of a run that has one.

        Raises:
            RecordError: If it is damaged.
        """
        path = self.records / spec.file_name
        return load(path) if path.exists() else self.packed[spec.file_name]

    @property
    def failures(self) -> Path:
        """Folder of the failures, one file per failed run."""
        return self.out / "failures"

    @cached_property
    def dense_identity(self) -> str:
        """Hash of the dense weights, or of the settings that they are trained with; computed once.

        Raises:
            RecordError: If their file cannot be read.
        """
        return self.experiment.dense_identity(self.data)

    def spec(self, trial: Trial) -> RunSpec:
        """The specification of a trial: everything that its result depends on."""
        return self.experiment.spec(trial, self.dense_identity)

    def work(self, name: str) -> Path:
        """Folder of a training in progress."""
        return self.out / "work" / name

    def material(self, seed: int) -> RunData:
        """The data of a seed."""
        return RunData.of(self.experiment.data, self.data, seed)


@dataclass(frozen=True)
class DenseNote:
    """The recorded results of a dense network.

    Attributes:
        outcome: Its costs and accuracy.
        payments: Cost of its training, if it was trained here.
    """

    outcome: Outcome
    payments: tuple[Payment, ...] = ()


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense network.

    Attributes:
        model: The network, in eval mode.
        example: Inputs for it: two examples.
        note: Its costs and accuracy.
    """

    model: nn.Module
    example: Batch
    note: DenseNote


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a path, against all other processes. Creates the folder if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        yield


def made(network: NetworkSource, seed: int) -> nn.Module:
    """A network with new weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(network.factory, **network.arguments)


def dense(workspace: Workspace, material: RunData, seed: int) -> Dense:
    """Return the dense network, with the given weights or trained for this seed.

    The first run that needs a network trains it; the others load it.

    Raises:
        RecordError: If its recorded results are damaged.
        PruneError: If it cannot be made, loaded or trained.
    """
    experiment, example = workspace.experiment, first_of(material.calibration[0][0], 2)
    stem = workspace.dense_identity[:12] + ("" if experiment.network.weights else f"-seed{seed}")
    file = workspace.out / "dense" / f"{stem}.safetensors"
    with alone(workspace.out / "dense" / stem):
        if not file.exists():
            _make(workspace, material, seed, example, file)
    note, tensors = DENSE.read(DenseNote, file)
    refuse_other_cost(experiment.network, note.outcome.macs)
    return Dense(_loaded(workspace, seed, tensors, file), example, note)


def refuse_other_cost(network: NetworkSource, macs: float) -> None:
    """Refuse a network whose cost differs from the one in the experiment.

    Raises:
        RecordError: If it differs.
    """
    if network.macs is not None and macs != network.macs:
        raise RecordError(
            f"{network.factory} has {macs:,.0f} MACs for an example like these; the experiment says {network.macs:,}. "
            "Give other data or another preprocessing, or correct the experiment"
        )


def _loaded(workspace: Workspace, seed: int, tensors: dict[str, Tensor], file: Path) -> nn.Module:
    """The network with its weights: those that the experiment gives, or those of its file."""
    network = workspace.experiment.network
    model = made(network, seed)
    if network.weights is None:
        load_tensors(model, tensors, file)
    else:
        load_weights(model, workspace.data / network.weights)
    return model.eval()


def _make(workspace: Workspace, material: RunData, seed: int, example: Batch, file: Path) -> None:
    """Train the dense network unless its weights are given, evaluate it, and write its file."""
    network = workspace.experiment.network
    cost = measure(made(network, seed), example)
    refuse_other_cost(network, cost.macs)
    tensors, payments = ({}, ()) if network.weights else _trained(workspace, material, seed, cost.macs, file)
    found, _ = outcome(_loaded(workspace, seed, tensors, file), cost, material.test)
    DENSE.save(file, tensors, DenseNote(found, payments), overwrite=True)
    shutil.rmtree(_work(workspace, file), ignore_errors=True)


def _trained(
    workspace: Workspace, material: RunData, seed: int, macs: float, file: Path
) -> tuple[dict[str, Tensor], tuple[Payment, ...]]:
    """Train the dense network. Returns its weights and the cost of the training."""
    network, recipe = workspace.experiment.network, workspace.experiment.pretraining
    if recipe is None:
        raise AssertionError("an experiment has weights or a pretraining")
    trainer = Trainer(material, macs, workspace.execution)
    learnt = learn(lambda: made(network, seed), recipe, (1.0,), trainer, seed, _work(workspace, file))
    tensors = {name: tensor.detach().cpu() for name, tensor in learnt.model.state_dict().items()}
    return tensors, tuple(replace(payment, stage="dense training") for payment in learnt.payments)


def _work(workspace: Workspace, file: Path) -> Path:
    """Folder of the training of a dense network."""
    return workspace.work(f"dense-{file.stem}")
