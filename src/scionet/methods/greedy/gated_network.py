"""A network as a function of the gates of one site."""

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.methods.contract import SiteView
from scionet.network.calling import Batch, attention_unfused, concatenated, example_count, form_of, tensors_of
from scionet.network.named_outputs import Pick, Tensors
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
    given, members = list(batches), dict[Hashable, list[int]]()
    for number, batch in enumerate(given):
        _refuse_undivided(batch)
        members.setdefault(form_of(batch), []).append(number)
    return [(concatenated([given[i] for i in numbers]), numbers) for numbers in members.values()]


def _refuse_undivided(batch: Batch) -> None:
    """Refuse a batch whose examples cannot be told apart.

    Raises:
        CalibrationError: If a tensor does not have the examples as its first dimension.
    """
    count = example_count(batch)
    for tensor in tensors_of(batch):
        if not tensor.ndim or len(tensor) != count:
            raise CalibrationError(
                f"all tensors of a batch must have the examples as their first dimension to be evaluated for each of "
                f"them; given one of shape {tuple(tensor.shape)} beside {count} examples"
            )


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
