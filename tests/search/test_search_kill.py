"""A search, killed at random moments, ends bit for bit as an unbroken one."""

from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pytest
import torch
from support.kills import Reporting, ends_as_unbroken
from support.pupils import CLASSES, examples
from torch import nn

from scionet import ArchitectureSearch, Recipe, search_architecture
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.training.execution import Execution

METHODS = {
    "default": ArchitectureSearch(learning_rate=0.1, tolerance_below=0.1),
    "inherited": ArchitectureSearch(learning_rate=0.1, tolerance_below=0.1, candidates=3, inherit=True),
}


def chain() -> nn.Module:
    """A chain of convolutions."""
    torch.manual_seed(0)
    blocks = [(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in ((2, 6), (6, 8))]
    layers = [layer for block in blocks for layer in block]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def life(kind: str, folder: Path, name: str, step: "Synchronized[int]") -> None:
    """One life of a search and of the training after it."""
    torch.set_num_threads(1)
    found = search_architecture(
        chain(),
        examples(70),
        "macs<=50%",
        method=METHODS[kind],
        recipe=Recipe(epochs=5, batch_size=7, learning_rate=0.05),
        training=Recipe(epochs=1, batch_size=14, learning_rate=0.05, teacher_weight=0.9),
        example_inputs=examples(2).tensors[0],
        state_file=folder / f"{name}.safetensors",
        execution=Execution(save_steps=3),
        callbacks=[Reporting(step)],
        progress=False,
    )
    told = f"{hash_tensors(state_of(found.model))} {found.architecture} {found.trace}"
    (folder / f"{name}.txt").write_text(told)


def test_killed_three_times(tmp_path: Path) -> None:
    ends_as_unbroken(life, "default", tmp_path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_killed_twenty_times(kind: str, tmp_path: Path) -> None:
    ends_as_unbroken(life, kind, tmp_path, 20)
