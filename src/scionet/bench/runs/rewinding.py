"""The beginning of the dense training, to which tickets go back."""

from pathlib import Path

from scionet.bench.runs.learning import Trainer, Training, at_rate
from scionet.bench.runs.workspace import Workspace, alone, made


def early_training(workspace: Workspace, trainer: Trainer, seed: int, factor: float) -> Training:
    """The dense training up to the epoch of late rewinding. It is done once for all arms.

    Args:
        workspace: The experiment, which trains its dense network.
        trainer: How dense networks are trained.
        seed: Seed of the run.
        factor: Factor on the learning rate.

    Raises:
        TrainingError: If the training fails.
    """
    experiment = workspace.experiment
    if experiment.pretraining is None:
        raise AssertionError("an experiment has the recipes of its arms")
    recipe, epoch = at_rate(experiment.pretraining, factor), experiment.tickets.rewind_epoch
    path = dense_path(workspace, seed, factor, f"early-{epoch}")
    with alone(path):
        return trainer.train(made(experiment.network, seed), recipe, seed, path, until=epoch)


def dense_path(workspace: Workspace, seed: int, factor: float, part: str) -> Path:
    """The file of a part of the dense training at one learning rate."""
    name = f"{workspace.dense_identity[:12]}-seed{seed}-rate-{factor:g}-{part}"
    return workspace.out / "tickets" / f"{name}.safetensors"
