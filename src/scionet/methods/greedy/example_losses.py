"""Calibration examples and what a network loses on each of them, for many gates of one site."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scionet.methods.greedy.gated_network import GatedSite, grouped_by_form
from scionet.methods.greedy.precomputed import Point, Precomputed
from scionet.network.calling import Batch, example_count

Score = Callable[[Tensor, Tensor], Tensor]
"""From outputs of some examples and their targets to what is lost on each: float64, 0 or more."""

Points = tuple[Point, ...]
"""Gates, as the values of the examples of each form."""


@dataclass(frozen=True, eq=False)
class _Share:
    """The examples of one form.

    Attributes:
        precomputed: The examples.
        targets: Target of each.
        first: Number of the first among all.
        batches: Which of them came with which batch.
    """

    precomputed: Precomputed
    targets: Tensor
    first: int
    batches: Mapping[int, slice]

    @property
    def everything(self) -> slice:
        return slice(0, self.precomputed.size)


class ExampleLosses:
    """All calibration examples of this process, numbered through.

    Attributes:
        size: Number of examples.
        together: Pairs of a candidate and an example that should be run at once.
    """

    def __init__(
        self, site: GatedSite, given: Sequence[tuple[Batch, Tensor]], score: Score, memory_bytes: float
    ) -> None:
        """Compute what does not depend on the gates.

        Args:
            site: The network.
            given: Batches of inputs on its device, each with its targets.
            score: What is lost.
            memory_bytes: What may be kept.
        """
        self._score, self._device = score, site.device
        counts = [example_count(inputs) for inputs, _ in given]
        self.size, self._shares = 0, list[_Share]()
        for inputs, numbers in grouped_by_form([inputs for inputs, _ in given]):
            precomputed = Precomputed(site, inputs, memory_bytes * example_count(inputs) / sum(counts))
            ends = np.cumsum([counts[i] for i in numbers]).tolist()
            batches = {i: slice(end - counts[i], end) for i, end in zip(numbers, ends, strict=True)}
            targets = torch.cat([given[i][1] for i in numbers])
            self._shares.append(_Share(precomputed, targets, self.size, batches))
            self.size += precomputed.size
        self.together = self._shares[0].precomputed.together

    def rows(self, batch: int | None) -> Tensor:
        """The numbers of the examples of one batch, or of all."""
        parts = [(share.first, slices) for share in self._shares for slices in self._slices(share, batch)]
        return torch.cat([first + torch.arange(part.start, part.stop, device=self._device) for first, part in parts])

    def start(self) -> Points:
        """No unit is there."""
        return tuple(share.precomputed.start() for share in self._shares)

    def advanced(self, points: Points, n_picks: int, unit: int) -> Points:
        """The gates with one unit picked once more."""
        return tuple(
            s.precomputed.advanced(point, n_picks, unit) for s, point in zip(self._shares, points, strict=True)
        )

    def losses(self, points: Points) -> Tensor:
        """What is lost on each example, ``(size,)``."""
        return torch.cat(
            [
                self._score(share.precomputed.outputs_at(point, part), share.targets[part])
                for share, point in zip(self._shares, points, strict=True)
                for part in share.precomputed.parts(share.everything)
            ]
        )

    def lost(self, points: Points, n_picks: int, units: Tensor, rows: Tensor) -> Tensor:
        """What is lost on pairs of a unit and an example, the unit picked once more than in `points`."""
        lost = torch.zeros(len(rows), dtype=torch.float64, device=self._device)
        for share, point in zip(self._shares, points, strict=True):
            mine = torch.nonzero((rows >= share.first) & (rows < share.first + share.precomputed.size))[:, 0]
            for some in mine.split(self.together) if len(mine) else ():
                own = rows[some] - share.first
                outputs = share.precomputed.outputs(share.precomputed.moved(point, n_picks, units[some], own), own)
                lost[some] = self._score(outputs, share.targets[own])
        return lost

    def slopes(self, points: Points, batch: int | None) -> Tensor:
        """How what is lost in all on one batch, or on all, changes per step towards each unit, ``(N,)``."""
        slopes = [
            share.precomputed.slopes(point, part, lambda outputs, s=share, p=part: self._score(outputs, s.targets[p]))
            for share, point in zip(self._shares, points, strict=True)
            for whole in self._slices(share, batch)
            for part in share.precomputed.parts(whole)
        ]
        return torch.stack(slopes).sum(0)

    @staticmethod
    def _slices(share: _Share, batch: int | None) -> list[slice]:
        if batch is None:
            return [share.everything]
        return [share.batches[batch]] if batch in share.batches else []
