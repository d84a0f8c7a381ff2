"""Network: a network with its sites, tensors, device and type."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from scionet.choices.outputs import Outputs
from scionet.network.branches import DroppedBranch, remaining
from scionet.network.calling import (
    Batch,
    attention_unfused,
    call,
    place_of,
    replaced,
    state_of,
    to_model,
    undisturbed,
)
from scionet.network.comparison import DEFAULT, class_scores
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.gates import column_factors, plan_gates


@dataclass(frozen=True, eq=False)
class Network:
    """A network and its sites. The network itself is never changed: it is called with other tensors instead.

    Attributes:
        model: The network.
        sites: Its sites; none of a network that is only called.
        outputs: Which outputs count, and how.
        dropped: The branches that its masked form is without, by name; see `without`.
    """

    model: nn.Module
    sites: Sites = field(default_factory=lambda: Sites({}, {}, (), {}, ()))
    outputs: Outputs = DEFAULT
    dropped: Mapping[str, DroppedBranch] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The network in one line."""
        return f"Network({type(self.model).__name__}, {len(self.sites)} sites)"

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers by name, detached: they share their memory with the network's own."""
        return {name: tensor.detach() for name, tensor in state_of(self.model).items()}

    @cached_property
    def names_by_address(self) -> dict[int, str]:
        """Names of parameters and buffers by the address of their data; of tied tensors the first name.

        `state` refers to their memory, so no other tensor gets one of these addresses.
        """
        names: dict[int, str] = {}
        for name, tensor in self.state.items():
            if tensor.numel():
                names.setdefault(tensor.data_ptr(), name)
        return names

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
        if tensors is None:
            return call(self.model, batch)
        with replaced(self.model, tensors):
            return call(self.model, batch)

    def class_scores(self, batch: Batch, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output whose labels are known; see `returned`.

        Raises:
            UnsupportedModel: If it is not clear which one that is.
        """
        return class_scores(self.returned(batch, tensors), self.outputs)

    def masked(self, gates: Mapping[str, Tensor], tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The tensors with which the network computes the gated one; see `scionet.network.surgery.gates`.

        Args:
            gates: Per site the gates, shape ``(width,)``; sites without gates stay whole.
            tensors: Replacement tensors in dense shapes (refitted weights), to which the gates are applied.

        Returns:
            Replacement tensors by name: the given ones, every consumer weight of a gated site, and what takes the place
            of dropped branches.
        """
        state = state_of(self.model)
        changed = {
            name: tensor.to(state[name]) if name in state else tensor for name, tensor in (tensors or {}).items()
        }
        for name, gate in gates.items():
            for consumer in self.sites[name].consumers:
                weight = changed.get(consumer, state[consumer])
                factors = column_factors(self.sites[name], consumer, gate.to(weight), weight.shape[1])
                changed[consumer] = weight * factors.view(1, -1, *[1] * (weight.ndim - 2))
        for each in self.dropped.values():
            changed = {**each.replacement, **changed}
        return changed

    def masked_by(self, plan: Plan) -> dict[str, Tensor]:
        """The tensors with which the network computes the masked one of a plan: refitted, with removed units at zero.

        Raises:
            InvalidSetting: If the plan names sites or branches that the network does not have, or of other widths.
        """
        return self.without(plan.dropped).masked(plan_gates(self.sites, plan), plan.tensors)

    def without(self, dropped: Mapping[str, Tensor | None]) -> "Network":
        """The network without some branches: it has the sites that remain, and its masked form lacks the branches.

        Called without other tensors, it still computes what the whole network does.

        Args:
            dropped: By name of the branch a constant for each channel, or None.

        Raises:
            InvalidSetting: If there is no such branch, or one lies in another.
        """
        sites = remaining(self.sites, dropped)
        found = {name: DroppedBranch(self.sites.branches[name], constant) for name, constant in dropped.items()}
        return replace(self, sites=sites, dropped={**self.dropped, **found})

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode without gradients; the network and the random numbers are as before afterwards."""
        return undisturbed(self.model)

    @contextmanager
    def as_plain_operations(self) -> Iterator[None]:
        """Let a pass consist of plain operations on the network's own tensors, in evaluation mode; see `evaluating`."""
        with self.evaluating(), attention_unfused():
            yield
