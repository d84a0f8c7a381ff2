"""What looks on while a network is trained, and may act."""

from torch import nn

from scionet.training.state import Epoch


class Callback:
    """Told what happens; does nothing. A subclass overrides what it needs."""

    def after_backward(self, network: nn.Module, step: int) -> None:
        """Gradients are there, those of all processes averaged, and may be changed; weights are about to be.

        In fp16 they are still multiplied by the loss scale.
        """

    def after_step(self, network: nn.Module, step: int) -> None:
        """Weights have been changed for the step-th time (from 1), and may be once more."""

    def after_epoch(self, network: nn.Module, epoch: Epoch) -> None:
        """An epoch is done, and measured on the validation data if there are any."""
