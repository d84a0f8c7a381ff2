"""A network as a function of the gates of one site."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.methods.contract import SiteView
from scionet.network.calling import Batch, attention_unfused, example_count
from scionet.network.outputs import Pick, Tensors
from scionet.network.passes.program import Program
from scionet.network.surgery.gates import column_factors
from scionet.torch_internals import tree_leaves, tree_map


class GatedSite:
    """A network with gates at one site, in addition to the gates and tensors decided before."""

    def __init__(self, view: SiteView, pick: Pick) -> None:
        """Compute the masked tensors once.

        Args:
            view: The site, and what was decided before.
            pick: Takes the outputs that matter from what the network returns.
        """
        self.view, self.network, self._pick = view, view.network, pick
        self.device, self.dtype = view.network.device, view.network.dtype
        self._base = view.network.masked(view.gates, view.tensors)
        self._weights = {name: self._base.get(name, self.network.state[name]) for name in view.site.consumers}

    def whole(self, inputs: Batch) -> Tensors:
        """The outputs with all units of the site."""
        with self.network.evaluating():
            return self._pick(self.network.returned(inputs, self._base))

    def program(self, inputs: Batch) -> Program:
        """The outputs as a graph of gates ``(N,)`` and of the tensors of one example.

        Args:
            inputs: An example, as a batch of one.

        Raises:
            UnsupportedModel: If an operation cannot be recorded.
        """

        def run(gate: Tensor, *tensors: Tensor) -> Tensors:
            given = iter(tensors)
            batch = tree_map(lambda leaf: next(given) if isinstance(leaf, Tensor) else leaf, inputs)
            return self._pick(self.network.returned(batch, {**self._base, **self._gated(gate)}))

        gate = torch.ones(self.view.site.width, dtype=self.dtype, device=self.device)
        with self.network.evaluating(), attention_unfused(), supported():
            return Program(run, gate, [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)])

    def _gated(self, gate: Tensor) -> dict[str, Tensor]:
        gated = {}
        for consumer, weight in self._weights.items():
            factors = column_factors(self.view.site, consumer, gate.to(weight.dtype), weight.shape[1])
            gated[consumer] = weight * factors.view(1, -1, *[1] * (weight.ndim - 2))
        return gated


def grouped_by_form(batches: Iterable[Batch]) -> list[tuple[Batch, list[int]]]:
    """Batches joined to one for each form of example, and the numbers of the batches in each.

    Raises:
        CalibrationError: If a tensor does not have the examples as its first dimension.
    """
    forms: list[Any] = []
    members: list[list[int]] = []
    given = list(batches)
    for number, batch in enumerate(given):
        form = _form(batch)
        if form not in forms:
            forms.append(form)
            members.append([])
        members[forms.index(form)].append(number)
    return [(tree_map(_joined, *(given[i] for i in numbers)), numbers) for numbers in members]


def _form(batch: Batch) -> Any:
    """The key that batches must share to be joined.

    Raises:
        CalibrationError: If a tensor does not have the examples as its first dimension.
    """
    count = example_count(batch)

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not leaf.ndim or len(leaf) != count:
            raise CalibrationError(
                f"all tensors of a batch must have the examples as their first dimension to be evaluated for each of "
                f"them; given one of shape {tuple(leaf.shape)} beside {count} examples"
            )
        return tuple(leaf.shape[1:]), leaf.dtype

    return tree_map(of, batch)


def _joined(*leaves: Any) -> Any:
    return torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0]


@contextmanager
def supported() -> Iterator[None]:
    """Say what to do where torch cannot trace, stack or differentiate.

    Raises:
        UnsupportedModel: If it cannot.
    """
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedModel(
            f"the network cannot be evaluated for several candidates at once by torch.func ({error}); choose local "
            "imitation, such as objective 'least_squares'"
        ) from error
