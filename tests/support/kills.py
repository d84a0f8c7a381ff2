"""Calls in real processes that are killed again and again, and must end where an unbroken one ends."""

import random
import time
from collections.abc import Callable
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from support.processes import CONTEXT

from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext

Life = Callable[[str, Path, str, "Synchronized[int]"], None]
"""A call: its kind, a folder, its name there, and the step that it counts. At its end, it writes NAME.txt."""


class Reporting(Callback):
    """Says how far a training is, and slows it down, so that kills hit every part of a step."""

    def __init__(self, count: "Synchronized[int]") -> None:
        self.count = count

    def settings(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def after_step(self, context: TrainingContext) -> None:
        self.count.value = context.step
        time.sleep(0.003)


def ends_as_unbroken(life: Life, kind: str, folder: Path, kills: int) -> None:
    """Kill a call at random steps, and compare what it leaves with what an unbroken one leaves."""
    step = CONTEXT.Value("q", 0)
    _whole(life, kind, folder, "unbroken", step)
    rng = random.Random(0)
    for target in sorted(rng.sample(range(2, step.value), kills)):
        step.value = 0
        process = CONTEXT.Process(target=life, args=(kind, folder, "broken", step))
        process.start()
        while process.is_alive() and step.value < target:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        process.kill()
        process.join(60)
        assert process.exitcode == -9
    _whole(life, kind, folder, "broken", step)
    assert (folder / "broken.txt").read_text() == (folder / "unbroken.txt").read_text()
    assert not list(folder.glob(".*"))


def _whole(life: Life, kind: str, folder: Path, name: str, step: "Synchronized[int]") -> None:
    process = CONTEXT.Process(target=life, args=(kind, folder, name, step))
    process.start()
    process.join(120)
    assert process.exitcode == 0
