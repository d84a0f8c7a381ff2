"""Network: a dense network with its sites, tensors, device and type."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from scionet.choices.outputs import Outputs
from scionet.network.calling import Batch, call, place_of, state_of, to_model, undisturbed
from scionet.network.comparison import DEFAULT, class_scores
from scionet.network.sites import Sites
from scionet.network.surgery.gates import call_with, gated_tensors


@dataclass(frozen=True, eq=False)
class Network:
    """A dense network and its sites. The network itself is never changed: it is called with other tensors instead.

    Attributes:
        model: The dense network.
        sites: Its sites.
        outputs: Which outputs count, and how.
    """

    model: nn.Module
    sites: Sites
    outputs: Outputs = DEFAULT

    def __repr__(self) -> str:
        """The network in one line."""
        return f"Network({type(self.model).__name__}, {len(self.sites)} sites)"

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers by name, detached: they share their memory with the network's own."""
        return {name: tensor.detach() for name, tensor in state_of(self.model).items()}

    @cached_property
    def device(self) -> torch.device:
        """Where the network is."""
        return place_of(self.model)[0]

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""
        return place_of(self.model)[1]

    def placed(self, batch: Batch) -> Batch:
        """The batch on the network's device, in its floating-point type."""
        return to_model(batch, self.model)

    def returned(self, batch: Batch, tensors: Mapping[str, Tensor] | None = None) -> Any:
        """What the network returns for a batch on its device.

        Args:
            batch: The inputs.
            tensors: Tensors that take the place of its own.
        """
        return call(self.model, batch) if tensors is None else call_with(self.model, tensors, batch)

    def class_scores(self, batch: Batch, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output whose labels are known; see `returned`.

        Raises:
            UnsupportedModel: If it is not clear which one that is.
        """
        return class_scores(self.returned(batch, tensors), self.outputs)

    def masked(self, gates: Mapping[str, Tensor], tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Tensors of the network with these gates; see `gated_tensors`."""
        return gated_tensors(self.model, self.sites, gates, tensors)

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode without gradients; the network and the random numbers are as before afterwards."""
        return undisturbed(self.model)
