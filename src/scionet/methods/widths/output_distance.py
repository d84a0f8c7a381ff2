"""OutputDistance: the distance of a changed network's outputs from the dense one's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scionet.choices.outputs import Outputs
from scionet.errors import CalibrationError, UnsupportedModel
from scionet.network.calling import Batch, example_count, joined
from scionet.network.comparison import OutputComparison, comparisons_for, rows, variance_of
from scionet.network.multiprocess import everywhere, failing_together, summed
from scionet.network.named_outputs import named_outputs
from scionet.network.network import Network
from scionet.network.passes.variants import pieces, run_variants
from scionet.progress import Progress, silent
from scionet.typing import FloatArray


@dataclass(frozen=True, eq=False)
class OutputDistance:
    """The distance of a network's outputs from the dense one's, on some examples.

    Attributes:
        network: The dense network.
        inputs: Batches on its device.
        outputs: The outputs that are compared, for each of them.
        comparisons: How each output is compared.
    """

    network: Network
    inputs: Sequence[Batch]
    outputs: Sequence[tuple[Tensor, ...]]
    comparisons: tuple[OutputComparison, ...]

    @classmethod
    def on(
        cls, network: Network, inputs: Iterable[Batch], choice: Outputs, like: Batch | None = None
    ) -> "OutputDistance":
        """Run the dense network once. All processes must call this together.

        Args:
            network: The dense network.
            inputs: Batches; there may be none in some of several processes, if `like` is given.
            choice: Which outputs are compared, and how.
            like: A batch of the same form, by which the outputs are known where there are none.

        Raises:
            CalibrationError: If there is no batch.
            UnsupportedModel: If outputs are missing, or have no classes for ``"kl"``.
        """
        placed = [network.placed(batch) for batch in inputs]
        known = placed or ([] if like is None else [network.placed(like)])
        if not everywhere(bool(known), network.device):
            raise CalibrationError(
                "the calibration data are empty; give an iterable of at least one batch of inputs (to every process, "
                "if there are several)"
            )
        with network.evaluating(), failing_together(network.device):
            named = [named_outputs(network.returned(batch)) for batch in known]
            comparisons = comparisons_for(named[0], choice)
            outputs = [_picked(each, comparisons) for each in named]
        counts = [example_count(batch) for batch in known]
        scaled = []
        for comparison, tensors in zip(comparisons, zip(*outputs, strict=True), strict=True):
            flat = [
                rows(tensor, count)[: count if placed else 0] for tensor, count in zip(tensors, counts, strict=True)
            ]
            scaled.append(replace(comparison, variance=variance_of(flat, network.device)))
        return cls(network, placed, outputs if placed else [], tuple(scaled))

    def picked(self, returned: Any) -> tuple[Tensor, ...]:
        """The outputs that are compared, of what a network returns.

        Raises:
            UnsupportedModel: If one is missing.
        """
        return _picked(named_outputs(returned), self.comparisons)

    @cached_property
    def n_examples(self) -> float:
        """Examples of all processes."""
        count = float(sum(map(example_count, self.inputs)))
        return float(summed(torch.tensor(count, dtype=torch.float64, device=self.network.device)))

    @property
    def unit_name(self) -> str:
        """The unit as a phrase."""
        names = {"kl": "nats of divergence", "squared": "relative squared error"}
        return " and ".join(names[metric] for metric in sorted({each.metric for each in self.comparisons}))

    @property
    def described(self) -> str:
        """The outputs and how each is compared, as a phrase."""
        return ", ".join(map(str, self.comparisons))

    def of(self, tensors: Mapping[str, Tensor]) -> float:
        """The distance when `tensors` replace the network's own.

        Raises:
            CalibrationError: If the output is NaN or infinite.
        """
        return float(self.of_each([tensors])[0])

    def of_each(self, changes: Sequence[Mapping[str, Tensor]], progress: Progress = silent) -> FloatArray:
        """The distance with each of the `changes`, shape ``(changes,)``; see `of`.

        Raises:
            CalibrationError: If an output is NaN or infinite.
        """
        return self._means(changes, progress)[0].sum(1)

    def with_errors(self, tensors: Mapping[str, Tensor]) -> tuple[float, dict[str, float]]:
        """The distance, and the squared error of each output relative to its variance, by name; see `of`.

        Raises:
            CalibrationError: If an output is NaN or infinite.
        """
        distances, errors = self._means([tensors], silent)
        named = zip(self.comparisons, errors[0], strict=True)
        return float(distances[0].sum()), {each.name: float(error) for each, error in named}

    def distances(self, changed: Sequence[Tensor], dense: Sequence[Tensor], count: int) -> Tensor:
        """The distance of each of `count` examples, added over the outputs, float64, shape ``(count,)``."""
        parts = zip(self.comparisons, changed, dense, strict=True)
        return torch.stack([each.distances(after, before, count) for each, after, before in parts]).sum(0)

    def errors_of(self, returned: Any, dense: Sequence[Tensor], count: int) -> list[Tensor]:
        """The mean squared error of each output relative to its variance, on `count` examples, with a gradient."""
        parts = zip(self.comparisons, self.picked(returned), dense, strict=True)
        return [each.errors(after, before, count).mean() for each, after, before in parts]

    def _means(self, changes: Sequence[Mapping[str, Tensor]], progress: Progress) -> tuple[FloatArray, FloatArray]:
        """Means over examples of distances, and of relative squared errors, ``(changes, outputs)`` each."""
        n_examples, done = sum(map(example_count, self.inputs)), 0
        total = torch.zeros(2, len(changes), len(self.comparisons), dtype=torch.float64, device=self.network.device)
        progress("measure", done, n_examples)
        pairs = ((inputs, *dense) for inputs, dense in zip(self.inputs, self.outputs, strict=True))
        parts = [part for pair in joined(pairs) for part in pieces(pair)]  # a call of one form is recorded once
        found = run_variants(self.network, changes, [inputs for inputs, *_ in parts], self.picked)
        with failing_together(self.network.device):
            for (inputs, *dense), outputs in zip(parts, found, strict=True):
                self._add(total, outputs, dense, example_count(inputs))
                done += example_count(inputs)
                progress("measure", done, n_examples)
        means = (summed(total) / self.n_examples).cpu().numpy()
        if not np.isfinite(means).all():
            raise CalibrationError("the pruned network gives NaN or infinite outputs; check the calibration data")
        return means[0], means[1]

    def _add(self, total: Tensor, outputs: Sequence[Sequence[Tensor]], dense: Sequence[Tensor], count: int) -> None:
        """Add the distances, and the relative squared errors, of some examples: ``(2, changes, outputs)``."""
        for sums, changed in zip(total.unbind(1), outputs, strict=True):
            for number, (each, after, before) in enumerate(zip(self.comparisons, changed, dense, strict=True)):
                sums[0, number] += each.distances(after, before, count).sum()
                sums[1, number] += each.errors(after, before, count).sum()


def _picked(named: Mapping[str, Tensor], comparisons: Iterable[OutputComparison]) -> tuple[Tensor, ...]:
    """Some of the named outputs.

    Raises:
        UnsupportedModel: If one is missing.
    """
    if missing := [each.name for each in comparisons if each.name not in named]:
        raise UnsupportedModel(
            f"the network returns {', '.join(map(repr, missing))} for some examples and not for others, so these "
            "outputs cannot be compared; name the others by outputs=Outputs(of=[...]), or choose widths='uniform'"
        )
    return tuple(named[each.name] for each in comparisons)
