"""A network while it learns: its weights, what the optimiser remembers, the average of its weights."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.errors import CheckpointError
from scionet.network.calling import Batch, to_model
from scionet.training import optimisers
from scionet.training.averages import WeightAverage, copies, overwrite, tensors_of_network
from scionet.training.callbacks import Callback
from scionet.training.execution import Execution
from scionet.training.loading import Pair
from scionet.training.loss import TrainingLoss
from scionet.training.recipes import Recipe
from scionet.training.state import TrainingState

if TYPE_CHECKING:
    from accelerate import Accelerator

PLAIN = ("NO", "MULTI_CPU", "MULTI_GPU")
"""Kinds of distribution in which gradients come by themselves and an optimiser is torch's."""


class Learner:
    """A network while it learns.

    The network itself is never wrapped, patched or compiled: what does that to it is done to a shell around it, so that
    afterwards it is what it was before, with other weights. It stays on the device on which it was trained.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        execution: Execution,
        accelerator: "Accelerator",
        teacher: nn.Module | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Make what learning takes.

        Raises:
            TrainingError: If nothing can be trained, the optimiser is stale, or teacher and recipe do not fit.
        """
        self.network, self.recipe, self.accelerator = network, recipe, accelerator
        self._execution = execution
        if execution.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  missing in torch's annotations
        self._objective = TrainingLoss(recipe, network, teacher)
        if teacher is not None:
            teacher.to(accelerator.device)
        made = optimisers.build(network, recipe) if optimizer is None else optimizer
        optimisers.refuse_stale(made, network)
        for group in made.param_groups:
            group.setdefault("initial_lr", group["lr"])  # as torch's schedules have it
        self.optimizer = made
        shell = _Shell(torch.compile(network) if execution.compile else network)
        self._wrapped, stepper = accelerator.prepare(shell, made)
        # Accelerate's own backward and step look for packages on the disk each time; where they would do what torch
        # does, torch does it.
        plain = accelerator.scaler is None and accelerator.distributed_type.value in PLAIN
        self._backward = torch.Tensor.backward if plain else accelerator.backward
        self._stepper = made if plain else stepper
        self.average = None if recipe.average_decay is None else WeightAverage(network, recipe.average_decay)

    @property
    def shell(self) -> nn.Module:
        """What calls the network in the chosen precision, in this process alone: to measure it by."""
        return self.accelerator.unwrap_model(self._wrapped)

    def step(self, number: int, rate: float, parts: Sequence[Pair], callbacks: Sequence[Callback]) -> Tensor:
        """Learn from one batch.

        Args:
            number: Number of the step, from 1.
            rate: Learning rate as a fraction of the largest one.
            parts: The share of this process, in parts of equal size.
            callbacks: Told when gradients are there, and when weights have changed.

        Returns:
            The mean loss of this process' share, a scalar on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["initial_lr"]
        losses = [self._learn(pair, len(parts), last=pair is parts[-1]) for pair in parts]
        for callback in callbacks:
            callback.after_backward(self.network, number)
        if self.recipe.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self._stepper.step()
        self._stepper.zero_grad()
        for callback in callbacks:
            callback.after_step(self.network, number)
        if self.average is not None:
            self.average.update(number)
        return sum(losses[1:], losses[0])

    def _learn(self, pair: Pair, count: int, last: bool) -> Tensor:
        """Add the gradient of one part of `count`; processes exchange theirs after the last one only."""
        inputs, labels = pair
        with nullcontext() if last else self.accelerator.no_sync(self._wrapped):
            loss = self._objective(self._wrapped, self._placed(inputs), labels)
            loss = loss / count if count > 1 else loss
            self._backward(loss)
        return loss.detach()

    def _placed(self, inputs: Batch) -> Batch:
        placed = to_model(inputs, self.network)
        if self._execution.channels_last and isinstance(placed, Tensor) and placed.ndim == 4:
            return placed.contiguous(memory_format=torch.channels_last)
        return placed

    def captured(self) -> dict[str, Any]:
        """Copies of all that a state holds of a network, on the processor."""
        memory = optimisers.memory_of(self.optimizer, self.network)
        scaler = self.accelerator.scaler
        return {
            "network": copies(tensors_of_network(self.network), "cpu"),
            "memory": {name: copies(kept, "cpu") for name, kept in memory.items()},
            "average": {} if self.average is None else copies(self.average.tensors, "cpu"),
            "loss_scale": {} if scaler is None else copy.deepcopy(scaler.state_dict()),
        }

    def restore(self, state: TrainingState, source: str) -> None:
        """Go back to where a training stood.

        Raises:
            CheckpointError: If it was another network's; `source` says where the state comes from.
        """
        _refuse_other_network(self.network, state, source)
        overwrite(self.network, state.network)
        optimisers.remember(self.optimizer, self.network, state.memory)
        if self.average is not None:
            for name, tensor in state.average.items():
                self.average.tensors[name].copy_(tensor)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(state.loss_scale))

    def close(self) -> None:
        """Let go of hooks."""
        self._objective.close()


class _Shell(nn.Module):
    """Calls a network."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)


def _refuse_other_network(network: nn.Module, state: TrainingState, source: str) -> None:
    """Compare names and shapes.

    Raises:
        CheckpointError: If they differ.
    """
    here = {name: tuple(tensor.shape) for name, tensor in tensors_of_network(network).items()}
    there = {name: tuple(tensor.shape) for name, tensor in state.network.items()}
    differ = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if differ:
        first = differ[0]
        raise CheckpointError(
            f"{source} is of another network: {len(differ)} tensors differ, such as {first!r} "
            f"({there.get(first, 'missing')} there, {here.get(first, 'missing')} here); give the network it was begun "
            "with, or delete it to begin anew"
        )
