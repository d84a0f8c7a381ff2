"""The loss of a network on each calibration example, for many gates of one site."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scionet.methods.greedy.gated_network import GatedSite, grouped_by_form
from scionet.methods.greedy.precomputed import Point, Precomputed
from scionet.network.calling import Batch, example_count
from scionet.network.named_outputs import Tensors

Score = Callable[[Tensors, Tensors], Tensor]
"""Maps outputs of some examples and their targets to the loss of each: float64, 0 or more."""

Points = tuple[Point, ...]
"""Gates, as the precomputed values of the examples of each form."""


@dataclass(frozen=True, eq=False)
class _Form:
    """The examples of one form.

    Attributes:
        precomputed: The examples.
        targets: Targets of each.
        first: Number of the first among all.
        batches: Which of them came with which batch.
    """

    precomputed: Precomputed
    targets: Tensors
    first: int
    batches: Mapping[int, slice]

    @property
    def everything(self) -> slice:
        return slice(0, self.precomputed.size)

    def targets_of(self, rows: slice | Tensor) -> Tensors:
        return tuple(target[rows] for target in self.targets)


class ExampleLosses:
    """The losses of all calibration examples of this process, which are numbered consecutively.

    Attributes:
        size: Number of examples.
        together: Pairs of a candidate and an example that should be run at once.
    """

    def __init__(
        self, site: GatedSite, given: Sequence[tuple[Batch, Tensors]], score: Score, memory_bytes: float
    ) -> None:
        """Precompute everything that does not depend on the gates.

        Args:
            site: The network.
            given: Batches of inputs on its device, each with its targets.
            score: The loss of each example.
            memory_bytes: Memory for precomputed values.
        """
        self._score, self._device = score, site.device
        counts = [example_count(inputs) for inputs, _ in given]
        self.size, self._forms = 0, list[_Form]()
        for inputs, numbers in grouped_by_form([inputs for inputs, _ in given]):
            precomputed = Precomputed(site, inputs, memory_bytes * example_count(inputs) / sum(counts))
            ends = np.cumsum([counts[i] for i in numbers]).tolist()
            batches = {i: slice(end - counts[i], end) for i, end in zip(numbers, ends, strict=True)}
            targets = tuple(map(torch.cat, zip(*(given[i][1] for i in numbers), strict=True)))
            self._forms.append(_Form(precomputed, targets, self.size, batches))
            self.size += precomputed.size
        self.together = self._forms[0].precomputed.together

    def rows(self, batch: int | None) -> Tensor:
        """The numbers of the examples of one batch, or of all."""
        parts = [(form.first, slices) for form in self._forms for slices in self._slices(form, batch)]
        return torch.cat([first + torch.arange(part.start, part.stop, device=self._device) for first, part in parts])

    def start(self) -> Points:
        """The gates without any unit."""
        return tuple(form.precomputed.start() for form in self._forms)

    def advanced(self, points: Points, n_picks: int, unit: int) -> Points:
        """The gates after one more pick of a unit."""
        return tuple(s.precomputed.advanced(point, n_picks, unit) for s, point in zip(self._forms, points, strict=True))

    def losses(self, points: Points) -> Tensor:
        """The loss of each example, ``(size,)``."""
        return torch.cat(
            [
                self._score(form.precomputed.outputs_at(point, part), form.targets_of(part))
                for form, point in zip(self._forms, points, strict=True)
                for part in form.precomputed.parts(form.everything)
            ]
        )

    def lost(self, points: Points, n_picks: int, units: Tensor, rows: Tensor) -> Tensor:
        """The losses of pairs of a unit and an example, the unit picked once more than in `points`."""
        lost = torch.zeros(len(rows), dtype=torch.float64, device=self._device)
        for form, point in zip(self._forms, points, strict=True):
            mine = torch.nonzero((rows >= form.first) & (rows < form.first + form.precomputed.size))[:, 0]
            for some in mine.split(self.together) if len(mine) else ():
                own = rows[some] - form.first
                outputs = form.precomputed.outputs(form.precomputed.moved(point, n_picks, units[some], own), own)
                lost[some] = self._score(outputs, form.targets_of(own))
        return lost

    def slopes(self, points: Points, batch: int | None) -> Tensor:
        """The slope of the summed loss, on one batch or on all, per step towards each unit, ``(N,)``."""
        slopes = [
            form.precomputed.slopes(point, part, lambda outputs, s=form, p=part: self._score(outputs, s.targets_of(p)))
            for form, point in zip(self._forms, points, strict=True)
            for whole in self._slices(form, batch)
            for part in form.precomputed.parts(whole)
        ]
        return torch.stack(slopes).sum(0)

    @staticmethod
    def _slices(form: _Form, batch: int | None) -> list[slice]:
        if batch is None:
            return [form.everything]
        return [form.batches[batch]] if batch in form.batches else []
