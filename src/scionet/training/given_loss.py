"""A loss that the caller of `fit` gives: a function of outputs and batch, or the network's own."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scionet.errors import InvalidSetting, TrainingError
from scionet.network.calling import call
from scionet.training.recipes import Recipe
from scionet.training.terms import scalar

Loss = Callable[[Any, Any], Tensor] | Literal["model"]
"""A function of the network's outputs and the batch, or ``"model"`` for the loss among the outputs."""
Place = Callable[[Any], Any]
"""Moves all tensors of a tree to the network."""


class GivenLoss:
    """A loss of the caller's, on batches of any kind.

    A function gets the network's outputs and the whole batch. The network gets the batch if that is a tensor (the only
    argument) or a mapping (keyword arguments), and its first entry if it is a list or a tuple. For ``"model"``, the
    network gets the whole batch, a list or tuple as positional arguments, and its output has the loss as attribute or
    key ``loss``, as in Hugging Face's transformers.
    """

    def __init__(self, loss: Loss, recipe: Recipe, teacher: nn.Module | None, place: Place) -> None:
        """Note the loss.

        Args:
            loss: The function, or ``"model"``.
            recipe: The recipe, which must not set terms of the classifier's loss.
            teacher: None.
            place: Moves batches to the network.

        Raises:
            InvalidSetting: If recipe and teacher belong to the classifier's loss.
        """
        set_too = {
            "label_smoothing": recipe.label_smoothing > 0,
            "teacher_weight": recipe.teacher_weight > 0,
            "features": bool(recipe.features),
            "teacher=": teacher is not None,
        }
        if used := [name for name, is_set in set_too.items() if is_set]:
            raise InvalidSetting(
                f"{', '.join(used)} cannot be combined with loss=: they are terms of the cross-entropy loss; leave "
                "them out, or compute them in your loss"
            )
        self._loss, self._place = loss, place

    def __call__(self, shell: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch.

        Args:
            shell: The network, or a module that wraps it.
            batch: The batch, as `scionet.training.loading.tree` makes it.

        Raises:
            TrainingError: If it is no scalar tensor, or does not depend on the weights.
        """
        placed = self._place(batch)
        if isinstance(self._loss, str):
            loss = _own(call(shell, placed))
        else:
            inputs = placed[0] if isinstance(placed, list | tuple) else placed
            loss = self._loss(call(shell, inputs), placed)
        loss = scalar(loss, "the loss", "return its mean over the batch")
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise TrainingError("the loss does not depend on the weights; compute it from the network's outputs")
        return loss

    def close(self) -> None:
        """Nothing is held open."""


def _own(outputs: Any) -> object:
    """The loss among a network's outputs.

    Raises:
        TrainingError: If there is none.
    """
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if loss is None:
        raise TrainingError(
            f"loss='model' needs outputs with a loss, as attribute or key; this {type(outputs).__name__} has none. Put "
            "what the network computes it from (such as labels) into the batch, or give a function as loss="
        )
    return loss


def refuse_other_losses(loss: object) -> None:
    """Refuse what is no loss, or would not be trained.

    Raises:
        InvalidSetting: If it is neither a function nor ``"model"``, or holds parameters.
    """
    if loss != "model" and (not callable(loss) or isinstance(loss, type)):
        given = loss.__name__ if isinstance(loss, type) else repr(loss)
        raise InvalidSetting(
            f"loss must be a function (outputs, batch) -> scalar tensor, 'model' for the network's own, or None for "
            f"cross-entropy; given {given:.80}"
        )
    if isinstance(loss, nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
        raise InvalidSetting(
            f"the loss {type(loss).__name__} has parameters, which would not be trained; make it a part of the network "
            "and give loss='model'"
        )
