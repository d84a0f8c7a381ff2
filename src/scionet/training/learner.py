"""One step of a training: the network, its optimiser, and the average of its weights."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.errors import CheckpointError
from scionet.network.calling import tensors_to_model
from scionet.torch_internals import tree_map
from scionet.training import optimisers
from scionet.training.averages import WeightAverage, copies, overwrite, tensors_of_network
from scionet.training.callback_list import CallbackList
from scionet.training.context import TrainingContext
from scionet.training.execution import Execution
from scionet.training.given_loss import GivenLoss, Loss
from scionet.training.loss import ClassifierLoss
from scionet.training.recipes import Recipe
from scionet.training.state import TrainingState, explained

if TYPE_CHECKING:
    from accelerate import Accelerator

PLAIN = ("NO", "MULTI_CPU", "MULTI_GPU")
"""Kinds of distribution in which torch's own backward and optimiser step are enough."""


@dataclass(frozen=True, eq=False)
class StepLosses:
    """The losses of one step, scalars on the device.

    Attributes:
        loss: Mean loss of this process' share of the batch, without penalties.
        penalties: Penalties of callbacks, by name.
    """

    loss: Tensor
    penalties: Mapping[str, Tensor]


class Learner:
    """A network, its optimiser, and the average of its weights.

    The network itself is never wrapped, patched or compiled; a shell around it is. After training it is the same object
    with other weights, on the device on which it was trained.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        execution: Execution,
        accelerator: "Accelerator",
        loss: Loss | None = None,
        teacher: nn.Module | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Prepare network, optimiser and loss.

        Raises:
            InvalidSetting: If the recipe does not fit the loss or the optimiser.
            TrainingError: If no parameter can be trained, the optimiser is stale, or teacher and recipe do not fit.
        """
        self.network, self.recipe, self.accelerator = network, recipe, accelerator
        self._execution, self._own_optimizer, self._restored = execution, optimizer is not None, False
        if execution.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  missing in torch's annotations
        self.loss = (
            ClassifierLoss(recipe, network, teacher, self._placed)
            if loss is None
            else GivenLoss(loss, recipe, teacher, self._placed)
        )
        if teacher is not None:
            teacher.to(accelerator.device)
        self.optimizer = optimisers.build(network, recipe) if optimizer is None else optimizer
        optimisers.refuse_unfit(self.optimizer, network, recipe)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])  # the name that torch's schedulers use
        shell = _Shell(torch.compile(network) if execution.compile else network)
        self._wrapped, prepared_optimizer = accelerator.prepare(shell, self.optimizer)
        # Accelerate's backward and step search for installed packages in every call; torch's own are the same here.
        plain = accelerator.scaler is None and accelerator.distributed_type.value in PLAIN
        self._backward = torch.Tensor.backward if plain else accelerator.backward
        self._stepper = self.optimizer if plain else prepared_optimizer
        self.average = None if recipe.average_decay is None else WeightAverage(network, recipe.average_decay)

    @property
    def shell(self) -> nn.Module:
        """A module that calls the network in the chosen precision, in this process alone, for validation."""
        return self.accelerator.unwrap_model(self._wrapped)

    @property
    def learning_rate(self) -> float:
        """Current learning rate of the optimiser's first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, context: TrainingContext, rate: float, parts: Sequence[Any], callbacks: CallbackList) -> StepLosses:
        """Learn from one batch.

        Args:
            context: What callbacks see.
            rate: Learning rate as a fraction of the largest one.
            parts: This process' share of the batch, in parts of equal size.
            callbacks: The callbacks.

        Raises:
            CheckpointError: If the optimiser or a callback fails after it was given its state back.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["initial_lr"]
        losses = [self._learn(part, len(parts)) for part in parts[:-1]]
        penalties = callbacks.penalties(context)
        losses.append(self._learn(parts[-1], len(parts), penalties))
        callbacks.run("after_backward", context)
        self._unscale_and_clip()
        callbacks.run("before_step", context)
        with explained(f"{type(self.optimizer).__name__}.step()", self._restored):
            self._stepper.step()
        self._stepper.zero_grad()
        callbacks.run("after_step", context)
        if self.average is not None:
            self.average.update(context.step)
        loss = sum(losses[1:], losses[0])
        return StepLosses(loss, {name: term.detach().to(loss.device) for name, term in penalties.items()})

    def _learn(self, part: Any, count: int, penalties: Mapping[str, Tensor] | None = None) -> Tensor:
        """Add the gradient of one of `count` parts; with the last one come the penalties, and processes synchronise."""
        with self.accelerator.no_sync(self._wrapped) if penalties is None else nullcontext():
            loss = self.loss(self._wrapped, part)
            loss = loss / count if count > 1 else loss
            self._backward(sum((penalties or {}).values(), loss))
        return loss.detach()

    def _unscale_and_clip(self) -> None:
        if self.recipe.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)  # unscales them, too
        else:
            self.accelerator.unscale_gradients()

    def _placed(self, batch: Any) -> Any:
        placed = tensors_to_model(batch, self.network)
        return tree_map(_channels_last, placed) if self._execution.channels_last else placed

    def captured(self) -> dict[str, Any]:
        """Copies of what a training state holds of network and optimiser, on the CPU."""
        memory = optimisers.memory_of(self.optimizer, self.network)
        scaler = self.accelerator.scaler
        return {
            "network": copies(tensors_of_network(self.network), "cpu"),
            "memory": {name: copies(kept, "cpu") for name, kept in memory.items()},
            "average": {} if self.average is None else copies(self.average.tensors, "cpu"),
            "loss_scale": {} if scaler is None else copy.deepcopy(scaler.state_dict()),
        }

    def restore(self, state: TrainingState, source: str) -> None:
        """Restore a training state that `refuse_other_network` let pass.

        Raises:
            CheckpointError: If the state of the optimiser or of the loss scale does not fit.
        """
        if (
            self.accelerator.scaler is not None
            and self.accelerator.scaler.state_dict().keys() != state.loss_scale.keys()
        ):
            raise CheckpointError(f"{source} holds no loss scale of this precision; start again")
        self._restored = True
        # Adagrad starts with a state, which parameters without one in `state` keep.
        beginning = {} if self._own_optimizer else optimisers.memory_of(self.optimizer, self.network)
        optimisers.load_memory(self.optimizer, self.network, {**beginning, **state.memory})
        if not self._own_optimizer:
            optimisers.refuse_damaged(state.memory, self.network, self.recipe)
        overwrite(self.network, state.network)
        if self.average is not None:
            for name, tensor in state.average.items():
                self.average.tensors[name].copy_(tensor)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(state.loss_scale))

    def refuse_other_network(self, state: TrainingState, source: str) -> None:
        """Compare names, shapes and kinds of tensors.

        Raises:
            CheckpointError: If they differ; `source` says where the state comes from.
        """
        parts = {"network": state.network, "average": state.average, "best": state.best}
        wanted = {"network", *(["average"] if self.average is not None else []), *(["best"] if state.best else [])}
        here = {name: optimisers.form(tensor) for name, tensor in tensors_of_network(self.network).items()}
        for part in sorted(wanted, reverse=True):
            there = {name: optimisers.form(tensor) for name, tensor in parts[part].items()}
            _refuse_other_forms(here, there, source)

    def close(self) -> None:
        """Remove the hooks on the network."""
        self.loss.close()


class _Shell(nn.Module):
    """A module that calls the network, to be wrapped and compiled in its place."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)


def _channels_last(value: Any) -> Any:
    """A batch of images in the channels-last format; anything else is left alone."""
    is_images = isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()
    return value.contiguous(memory_format=torch.channels_last) if is_images else value


def _refuse_other_forms(here: Mapping[str, str], there: Mapping[str, str], source: str) -> None:
    """Compare forms of tensors by name.

    Raises:
        CheckpointError: If they differ.
    """
    differ = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if differ:
        first = differ[0]
        raise CheckpointError(
            f"{source} is of another network: {len(differ)} tensors differ, such as {first!r} "
            f"({there.get(first, 'missing')} there, {here.get(first, 'missing')} here); give the network of that "
            "training, or delete it to start again"
        )
