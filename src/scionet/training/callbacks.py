"""Callbacks: code that runs at fixed points of a training, and whose state is part of the training's state."""

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from scionet.errors import CheckpointError, TrainingError
from scionet.training.callback_state import described
from scionet.training.context import TrainingContext
from scionet.training.state import Epoch


class Callback:
    """Does nothing. A subclass overrides the hooks it needs; they are listed in the order in which they run.

    Write a subclass as a dataclass. Its settings are the arguments of its constructor, which must not change during
    training. Its state is everything else that it holds: every field with ``init=False`` and every other attribute.
    Override `settings`, `state` and `load_state` to choose otherwise. Give a new instance to every training.

    Hooks run in every process of a training, and must do the same in each: the state that is saved is that of the main
    process. What is held outside the callback (in globals, in variables of an enclosing function) is not saved.
    """

    @property
    def name(self) -> str:
        """Name of the callback in the history of a training; by default that of its class."""
        return type(self).__name__

    def on_start(self, context: TrainingContext) -> None:
        """Training starts or resumes, in each call of `fit`. The state is restored, and no step has been done."""

    def penalty(self, context: TrainingContext) -> Tensor | None:
        """A differentiable scalar that is added to the loss, once in each step; None for none.

        It is a function of the weights: where a batch is taken in parts, it is added to the loss of the last one.
        """

    def after_backward(self, context: TrainingContext) -> None:
        """Gradients are complete, averaged over all processes, and may be changed; they are not clipped yet.

        In float16 they are still multiplied by the loss scale.
        """

    def before_step(self, context: TrainingContext) -> None:
        """Gradients are unscaled and clipped, as the optimiser is about to use them, and may be changed.

        In float16 they may be infinite; the optimiser then skips this step.
        """

    def after_step(self, context: TrainingContext) -> None:
        """The optimiser has changed the weights, and gradients are gone; weights may be changed."""

    def before_validation(self, context: TrainingContext) -> None:
        """An epoch is done and the network is about to be validated; not called without validation data.

        The weights are those of the last step, also where their average is validated.
        """

    def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
        """An epoch is done and validated; its result is `epoch`."""

    def settings(self) -> Mapping[str, Any]:
        """The settings of the callback, as JSON values. A training resumes only with the same settings.

        By default the constructor's arguments of a dataclass, with a hash in place of every tensor.

        Raises:
            TrainingError: If the class is no such dataclass, or an argument has no description.
        """
        names = self._constructor_arguments("settings")
        return {name: described(getattr(self, name), f"{self.name}.{name}") for name in names}

    def state(self) -> Mapping[str, Any]:
        """The state of the callback: tensors, plain numbers, strings, and lists, tuples and dicts of these.

        By default every attribute of a dataclass that is not an argument of its constructor. Tensors are not copied.

        Raises:
            TrainingError: If the class is no such dataclass.
        """
        arguments = self._constructor_arguments("state")
        return {name: getattr(self, name) for name in _attributes(self) if name not in arguments}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned; by default, set each attribute.

        Args:
            state: The state. Its tensors are copies, on the CPU or the network's device, as they were.

        Raises:
            CheckpointError: If a name in it is that of a method.
        """
        for name, value in state.items():
            if name.startswith("__") or callable(getattr(type(self), name, None)):
                raise CheckpointError(
                    f"the state of the callback {type(self).__name__} is damaged: it holds {name!r:.60}, which is no "
                    "attribute; start again"
                )
            object.__setattr__(self, name, value)  # a frozen dataclass is no obstacle

    def _constructor_arguments(self, wanted: str) -> tuple[str, ...]:
        """Arguments of the constructor, all of which are fields of a dataclass.

        Raises:
            TrainingError: If there are others, or this is no dataclass and holds attributes: which of them are settings
                is then not known.
        """
        arguments = tuple(field.name for field in fields(self) if field.init) if is_dataclass(self) else ()
        attributes = _attributes(self)
        takes = set(inspect.signature(type(self)).parameters)
        if (is_dataclass(self) and takes == set(arguments)) or not attributes:
            return arguments
        raise TrainingError(
            f"the callback {type(self).__name__} holds {', '.join(attributes)}, and does not say which of these are "
            "settings and which are state. Make it a dataclass without a constructor of its own (fields with "
            f"init=False are state), or override {wanted}()"
        )


def _attributes(callback: Callback) -> list[str]:
    """Names of all that an instance holds: fields of a dataclass that were never set, slots, and the others."""
    declared = [field.name for field in fields(callback)] if is_dataclass(callback) else []
    slots = [name for kind in type(callback).__mro__ for name in kind.__dict__.get("__slots__", ())]
    return [*dict.fromkeys(name for name in (*declared, *slots, *vars(callback)) if hasattr(callback, name))]
