"""What shrinking adds to a step of training."""

import time
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from scionet import Recipe
from scionet.models.resnets import resnet20
from scionet.shrinking import ShrinkLoop


def cpu_seconds(work: Callable[[], object], times: int) -> float:
    """The least of several runs, in time of this process."""
    found = []
    for _ in range(times):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["slimming", "sparse_structures", "soft_filters", "increg", "greg1", "greg2"])
def test_hooks_take_less_than_a_tenth_of_a_step(method: str) -> None:
    torch.manual_seed(0)
    images, labels, model = torch.randn(128, 3, 32, 32), torch.randint(10, (128,)), resnet20()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loop = ShrinkLoop(
        model, "macs<=50%", method=method, recipe=Recipe(), steps_per_epoch=390, example_inputs=images[:2]
    )

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def hooks() -> None:
        if (penalty := loop.penalty(optimizer)).requires_grad:
            penalty.backward()
        loop.before_step(optimizer)
        loop.after_step(optimizer)

    step()
    hooks()
    assert cpu_seconds(hooks, 10) < 0.1 * cpu_seconds(step, 3)
