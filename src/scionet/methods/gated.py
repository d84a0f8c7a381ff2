"""A network as a function of the gates of one site: evaluated for many gates at once, and differentiated."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.func import vmap

from scionet.errors import UnsupportedModel
from scionet.methods.contract import SiteView
from scionet.network.gates import call_with, column_factors, gated_tensors
from scionet.network.running import Batch, place_of, state_of, tensors_of

STACKED_EXAMPLES = 4096
"""Rows of gates are evaluated together up to this many examples."""


class GatedSite:
    """A network with gates at one site, behind what was decided before."""

    def __init__(self, view: SiteView) -> None:
        """Look the tensors up once."""
        self.view, (self.device, self.dtype) = view, place_of(view.model)
        state = state_of(view.model)
        self._base = gated_tensors(view.model, view.sites, view.gates, view.tensors)
        self._weights = {name: self._base.get(name, state[name]) for name in view.site.consumers}

    def output(self, gate: Tensor, inputs: Batch) -> Tensor:
        """The first tensor that the network gives, for gates of shape ``(N,)``."""
        return next(tensors_of(self(gate, inputs)))

    def __call__(self, gate: Tensor, inputs: Batch) -> Any:
        """What the network gives for gates of shape ``(N,)``."""
        tensors: dict[str, Tensor] = dict(self._base)
        for consumer, weight in self._weights.items():
            factors = column_factors(self.view.site, consumer, gate.to(weight.dtype), weight.shape[1])
            tensors[consumer] = weight * factors.view(1, -1, *[1] * (weight.ndim - 2))
        return call_with(self.view.model, tensors, inputs)


def stacked(function: Callable[[Tensor], Tensor], rows: Tensor, n_examples: int) -> Tensor:
    """A function of gates for many rows of them, ``(rows, N)``: what comes before the site is computed once for all.

    Args:
        function: From gates ``(N,)`` to a tensor, by way of one batch.
        rows: The gates, or directions in their space.
        n_examples: Examples of the batch.

    Raises:
        UnsupportedModel: If the network does something that cannot be stacked or differentiated.
    """
    try:
        return vmap(function, chunk_size=max(1, STACKED_EXAMPLES // n_examples))(rows)
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedModel(
            f"the network cannot be evaluated for several candidates at once by torch.func ({error}); choose local "
            "imitation, such as objective 'least_squares'"
        ) from error
