"""A network that shrinks, killed at random moments, ends bit for bit as an unbroken one."""

from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import pytest
import torch
from support.kills import Reporting, ends_as_unbroken
from support.pupils import examples, network

from scionet import Recipe
from scionet.choices.shrinking import SHRINKING, Directional
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.shrinking import shrink
from scionet.training.execution import Execution

RECIPE = Recipe(epochs=8.5, batch_size=14, learning_rate=0.05, momentum=0.0, nesterov=False, weight_decay=0.0)


def life(method: str, folder: Path, name: str, step: "Synchronized[int]") -> None:
    """One life of a training that shrinks."""
    torch.set_num_threads(1)
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
        callbacks=[Reporting(step)],
        progress=False,
    )
    (folder / f"{name}.txt").write_text(f"{hash_tensors(state_of(found.model))} {found.plan.identity} {found.trace}")


def test_killed_three_times(tmp_path: Path) -> None:
    ends_as_unbroken(life, "increg", tmp_path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("method", SHRINKING)
def test_killed_twenty_times(method: str, tmp_path: Path) -> None:
    ends_as_unbroken(life, method, tmp_path, 20)
