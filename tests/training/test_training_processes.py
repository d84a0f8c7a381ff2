"""Training by several real processes: the same weights as by one."""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.processes import together
from support.pupils import Execution, Noisy, Recipe, examples, learnt, network, plain
from torch import Tensor, distributed

from scionet.errors import TrainingError
from scionet.network.calling import state_of
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.state import load_state

RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.1, clip_norm=1.0, average_decay=0.9, patience=2)


@dataclass
class Pulling(Callback):
    """Its state decides the weights."""

    steps: int = field(default=0, init=False)
    mean: dict[str, Tensor] = field(default_factory=dict, init=False)

    def penalty(self, context: TrainingContext) -> Tensor:
        return 1e-3 * sum(parameter.abs().sum() for parameter in context.network.parameters())

    def before_step(self, context: TrainingContext) -> None:
        self.steps += 1
        for name, parameter in context.network.named_parameters():
            gradient = parameter.grad
            assert gradient is not None
            self.mean[name] = self.mean.get(name, torch.zeros_like(gradient)).lerp(gradient, 0.1)
            gradient.add_(self.mean[name], alpha=0.1 * self.steps)


def smoothed(outputs: Tensor, batch: list[Tensor]) -> Tensor:
    """A loss of the caller's."""
    return torch.nn.functional.cross_entropy(outputs, batch[1], label_smoothing=0.1)


def train(rank: int, size: int, folder: Path) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    if size > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "ACCELERATE_USE_CPU": "1"}
        os.environ |= {"LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    model = plain()
    file = folder / f"{size}.safetensors"
    options = {"data": Noisy(70), "validation": examples(21, 2), "state_file": file}
    learnt(model, RECIPE, **options, callbacks=[Pulling()], until=1)
    result = learnt(model, RECIPE, **options, callbacks=[Pulling()], execution=Execution(parts=2))
    save_file(dict(state_of(model)), folder / f"{size}-{rank}.weights")
    own = learnt(plain(), replace(RECIPE, l1_weight=1e-3), loss=smoothed, **{**options, "state_file": None})
    if rank == 0:
        history = [[epoch.loss, epoch.penalties["L1Penalty"], epoch.validation.value] for epoch in own.history]  # type: ignore[union-attr]
        (folder / f"{size}.json").write_text(json.dumps(history))
        (folder / f"{size}.txt").write_text(repr([epoch.validation for epoch in result.history]))
    if size > 1:
        learnt(network(), replace(RECIPE, patience=None))  # BatchNorm and dropout
        with pytest.raises(TrainingError, match="a multiple of 2"):
            learnt(plain(), replace(RECIPE, batch_size=15, patience=None))
        distributed.destroy_process_group()


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    train(0, 1, tmp_path)
    together(train, 2, 2, tmp_path)
    expected = load_file(tmp_path / "1-0.weights")
    for rank in range(2):
        for name, tensor in load_file(tmp_path / f"2-{rank}.weights").items():
            torch.testing.assert_close(tensor, expected[name])
    states = [load_state(tmp_path / f"{size}.safetensors") for size in (1, 2)]
    for name, kept in states[0].memory.items():
        torch.testing.assert_close(states[1].memory[name], kept)
    assert (tmp_path / "1.txt").read_text() == (tmp_path / "2.txt").read_text()
    assert [epoch.penalties["Pulling"] for epoch in states[1].history] == pytest.approx(
        [epoch.penalties["Pulling"] for epoch in states[0].history], rel=1e-5
    )
    found, expected_losses = (json.loads((tmp_path / f"{size}.json").read_text()) for size in (2, 1))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected_losses), rtol=1e-5, atol=0)
    for key, tensor in states[0].callbacks[0].tensors.items():  # type: ignore[index]
        torch.testing.assert_close(states[1].callbacks[0].tensors[key], tensor)  # type: ignore[index]
    assert [epoch.loss for epoch in states[1].history] == pytest.approx([e.loss for e in states[0].history], rel=1e-5)
