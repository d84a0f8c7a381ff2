"""A network that shrinks, killed at random moments, ends bit for bit as an unbroken one."""

import random
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import pytest
import torch
from support.processes import CONTEXT
from support.pupils import examples, network

from scionet import Callback, Recipe
from scionet.choices.shrinking import SHRINKING, Directional
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.shrinking import shrink
from scionet.training.context import TrainingContext
from scionet.training.execution import Execution

RECIPE = Recipe(epochs=8.5, batch_size=14, learning_rate=0.05, momentum=0.0, nesterov=False, weight_decay=0.0)
QUICK = ("increg",)


def life(method: str, folder: Path, name: str, step: "Synchronized[int]") -> None:
    """One life of a training that shrinks."""

    class Reporting(Callback):
        """Says how far the training is."""

        def after_step(self, context: TrainingContext) -> None:
            step.value = context.step
            time.sleep(0.003)

    torch.set_num_threads(1)
    torch.manual_seed(0)
    given: Any = Directional(c=1.0, mu=0.6) if method == "directional" else method
    found = shrink(
        network(),
        examples(70),
        "macs<=60%",
        method=given,
        recipe=RECIPE,
        example_inputs=examples(2).tensors[0],
        state_file=folder / f"{name}.safetensors",
        execution=Execution(save_steps=3),
        callbacks=[Reporting()],
        progress=False,
    )
    (folder / f"{name}.txt").write_text(f"{hash_tensors(state_of(found.model))} {found.plan.identity} {found.trace}")


def run(method: str, folder: Path, name: str, step: "Synchronized[int]") -> None:
    """A life to its end."""
    process = CONTEXT.Process(target=life, args=(method, folder, name, step))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def ends_as_unbroken(method: str, folder: Path, kills: int) -> None:
    step = CONTEXT.Value("q", 0)
    run(method, folder, "unbroken", step)
    rng = random.Random(0)
    for target in sorted(rng.sample(range(2, step.value), kills)):
        step.value = 0
        process = CONTEXT.Process(target=life, args=(method, folder, "broken", step))
        process.start()
        while process.is_alive() and step.value < target:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        process.kill()
        process.join(60)
        assert process.exitcode == -9
    run(method, folder, "broken", step)
    assert (folder / "broken.txt").read_text() == (folder / "unbroken.txt").read_text()
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("method", QUICK)
def test_killed_three_times(method: str, tmp_path: Path) -> None:
    ends_as_unbroken(method, tmp_path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("method", SHRINKING)
def test_killed_twenty_times(method: str, tmp_path: Path) -> None:
    ends_as_unbroken(method, tmp_path, 20)
