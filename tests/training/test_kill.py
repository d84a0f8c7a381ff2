"""A training that is killed at any moment, again and again, ends where an unbroken one ends."""

from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pytest
import torch
from support.kills import Reporting, ends_as_unbroken
from support.pupils import Noisy, examples, network
from torch import Tensor

from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.execution import Execution
from scionet.training.fit import fit
from scionet.training.recipes import Recipe
from scionet.training.state import Epoch

RECIPES = {
    "sgd": Recipe(epochs=6.5, batch_size=8, learning_rate=0.05, average_decay=0.9, warmup_epochs=1, patience=6),
    "adamw": Recipe(epochs=6.5, batch_size=8, optimiser="adamw", clip_norm=1.0, schedule="step"),
}
EXECUTIONS = {
    "sgd": Execution(save_steps=5, channels_last=True),
    "adamw": Execution(save_steps=4, parts=2),
}


@dataclass
class Shrinking(Callback):
    """Averages gradients, counts, and shrinks weights by what it has gathered: its state decides the weights."""

    rate: float = 1e-3
    steps: int = field(default=0, init=False)
    epochs: list[float] = field(default_factory=list, init=False)
    mean: dict[str, Tensor] = field(default_factory=dict, init=False)

    def penalty(self, context: TrainingContext) -> Tensor:
        return self.rate * self.steps * sum(p.abs().sum() for p in context.network.parameters())

    def before_step(self, context: TrainingContext) -> None:
        for name, parameter in context.network.named_parameters():
            gradient = parameter.grad.clone()  # type: ignore[union-attr]
            self.mean[name] = self.mean[name].lerp(gradient, 0.1) if name in self.mean else gradient

    @torch.no_grad()
    def after_step(self, context: TrainingContext) -> None:
        self.steps += 1
        for name, parameter in context.network.named_parameters():
            parameter.sub_(self.rate * (self.steps + len(self.epochs)) * self.mean[name])
            parameter.mul_(1 - self.rate * self.mean[name].square().mean().sqrt())

    def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
        self.epochs.append(epoch.loss)


def train(kind: str, folder: Path, name: str, step: "Synchronized[int]") -> None:
    """One life of a training."""

    torch.set_num_threads(1)
    model, shrinking = network(), Shrinking()
    fit(
        model,
        Noisy(90),
        RECIPES[kind],
        validation=examples(20, seed=2),
        seed=3,
        state_file=folder / f"{name}.safetensors",
        execution=EXECUTIONS[kind],
        callbacks=[shrinking, Reporting(step)],
    )
    gathered = (shrinking.steps, shrinking.epochs, hash_tensors(shrinking.mean))
    (folder / f"{name}.txt").write_text(f"{hash_tensors(state_of(model))} {gathered}")


@pytest.mark.parametrize("kind", ["sgd", pytest.param("adamw", marks=pytest.mark.slow)])
def test_a_killed_training_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    ends_as_unbroken(train, kind, tmp_path, 4)
