"""Measures and fits a network's consumers: the refit, and the regression problems of selection."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scionet.choices.repair import Refit
from scionet.methods.contract import Repaired
from scionet.methods.refit.regression_problems import (
    channel_gates,
    flat_columns,
    make_term,
    norm_scale,
    output_gates,
    per_column,
    shift_target,
)
from scionet.methods.refit.shrinkage import fitted_weight, judged_shrinkage
from scionet.network.network import Network
from scionet.network.passes.moments import Moments, input_rows, output_rows, sample_positions, unflatten_weight
from scionet.network.passes.suspended import Stop
from scionet.network.sites import Address, Site, Sites
from scionet.selection.greedy import Selection
from scionet.selection.terms import Term
from scionet.typing import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Fitted:
    """A consumer after its refit.

    Attributes:
        tensors: Replacements in dense shapes: its weight, and the tensor that the intercept is added to.
        shift: The intercept, shape ``(O,)``; None if no tensor can take one.
    """

    tensors: Mapping[str, Tensor]
    shift: Tensor | None


@dataclass(frozen=True, eq=False)
class Sample:
    """The examples of a batch, and how their positions are sampled.

    Attributes:
        numbers: The number of each example among all, shape ``(examples,)``.
        key: Root of the randomness at the consumer.
        held: Which examples are held out, shape ``(examples,)``; None if none are.
    """

    numbers: IntArray
    key: int
    held: NDArray[np.bool_] | None

    def held_rows(self, n_rows: int) -> Tensor | None:
        """Mark the rows of held-out examples, shape ``(n_rows,)``; the rows of an example are consecutive."""
        if self.held is None:
            return None
        return torch.from_numpy(np.repeat(self.held, -(-n_rows // max(1, len(self.held))))[:n_rows])


@dataclass(frozen=True, eq=False)
class Fitting:
    """Measures and fits the consumers of one network.

    Attributes:
        network: The dense network.
        refit: How consumers are refitted; None if they keep their weights.
        positions: Output pixels of each example that a convolution is fitted on.
    """

    network: Network
    refit: Refit | None
    positions: int

    @property
    def sites(self) -> Sites:
        """The network's sites."""
        return self.network.sites

    @cached_property
    def scales(self) -> dict[str, FloatArray | None]:
        """For each consumer the factor of the BatchNorm behind it."""
        return {name: norm_scale(self.network, consumer) for name, consumer in self.sites.consumers.items()}

    @property
    def asymmetric(self) -> bool:
        """Whether inputs are those of the pruned network; without a refit, they still are for selection."""
        return self.refit is None or self.refit.asymmetric

    @cached_property
    def stops(self) -> dict[str, Address | None]:
        """Every consumer, with the shortcut whose error it compensates."""
        shortcuts = self.refit is None or self.refit.shortcuts
        return {name: consumer.shortcut if shortcuts else None for name, consumer in self.sites.consumers.items()}

    @property
    def holds_out(self) -> bool:
        """Whether some examples are held out to judge the refit."""
        return self.refit is not None and self.refit.shrinkage == "held_out"

    def dense_moments(self, stop: Stop, sample: Sample) -> Moments:
        """Moments of one batch at one consumer: its inputs, and its outputs without its bias."""
        positions = sample_positions(stop, self.positions, sample.numbers, sample.key)
        target = output_rows(stop.output_without_bias, positions)
        return Moments.of(input_rows(stop, positions), target, sample.held_rows(len(target)))

    def moments(self, dense: Stop, pruned: Stop, sample: Sample) -> Moments:
        """Inputs of the pruned network and targets of the dense one at one consumer, for one batch."""
        if not self.asymmetric:
            return self.dense_moments(dense, sample)
        positions = sample_positions(dense, self.positions, sample.numbers, sample.key)
        target = output_rows(dense.output_without_bias, positions)
        if dense.shortcut is not None and pruned.shortcut is not None:
            # linear maps see all leading dimensions as one, the residual sum does not
            gap = (dense.shortcut - pruned.shortcut).reshape(dense.output.shape)
            target = target + output_rows(gap, positions) * self._unscale(dense.weight, target)
        return Moments.of(input_rows(pruned, positions), target, sample.held_rows(len(target)))

    def term(self, site: Site, weight: str, moments: Moments, gates: Mapping[str, Tensor]) -> Term:
        """Return the problem of one site at one of its consumers, given the decided sites in `gates`.

        Errors are measured behind the consumer's BatchNorm. Removed outputs do not count.
        """
        return make_term(
            site,
            weight,
            self.network.state[weight],
            moments,
            channel_gates(self.sites, weight, gates, without=site.name),
            output_gates(self.sites, weight, gates) * self._metric(weight),
            centred=self.refit is not None and self._shift_target(weight) is not None,
            shrinkage=self._given_shrinkage if self.refit else 0.0,
        )

    def fitted(self, weight: str, moments: Moments, gates: Mapping[str, Tensor]) -> Fitted:
        """Refit a consumer's weights on the remaining channels, and its intercept if a tensor can take one.

        The new weights apply to inputs that the gates have multiplied.
        """
        state, place = self.network.state, self._shift_target(weight)
        dense, factors = state[weight], channel_gates(self.sites, weight, gates)
        columns, shrinkage = flat_columns(np.flatnonzero(factors), dense), self._given_shrinkage
        if self.holds_out:
            shrinkage = judged_shrinkage(moments, place is not None, dense, columns, self._metric(weight))
        flat = fitted_weight(moments, place is not None, dense, columns, shrinkage)
        ungated = torch.from_numpy(flat / per_column(factors, dense))
        fitted = {weight: unflatten_weight(ungated, dense.shape).to(dense)}
        if place is None:
            return Fitted(fitted, None)
        name, sign = place
        shift = torch.from_numpy(moments.shift(flat)).to(state[name])
        return Fitted({**fitted, name: (state[name] + sign * shift).detach()}, shift)

    def repaired_by(self, site: Site, moments: Mapping[str, Moments]) -> Repaired:
        """The network's tensors as a function of the selection at one site, given the moments of its consumers."""

        def repaired(
            selection: Selection, gates: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
        ) -> dict[str, Tensor]:
            gates, tensors = {**gates, site.name: self.gate(site, selection)}, dict(tensors)
            for consumer in site.consumers if self.refit else ():
                if self.called_once(consumer):
                    tensors.update(self.fitted(consumer, moments[consumer], gates).tensors)
            return self.network.masked(gates, tensors)

        return repaired

    def called_once(self, weight: str) -> bool:
        """Whether one forward pass calls a consumer once. Others are not refitted."""
        return self.sites.consumers[weight].calls == 1

    def waits(self, site: Site) -> bool:
        """Whether a site is decided when the walk reaches its consumer: if it has only one, which is called once."""
        return len(site.consumers) == 1 and self.called_once(site.consumers[0])

    def gate(self, site: Site, selection: Selection) -> Tensor:
        """The gates of a selection, shape ``(width,)``; 1 for kept units if refits absorb their multipliers."""
        absorbed = self.refit is not None and all(self.called_once(consumer) for consumer in site.consumers)
        gate = torch.zeros(site.width, dtype=torch.float64)
        gate[list(selection.kept)] = torch.tensor(1.0 if absorbed else selection.weights, dtype=torch.float64)
        return gate

    @property
    def _given_shrinkage(self) -> float | None:
        """A number, or None where the number of rows decides, as it does for the selection of units before a refit."""
        given = None if self.refit is None else self.refit.shrinkage
        return None if given == "held_out" else given

    def _metric(self, weight: str) -> FloatArray:
        """The factor of each output in which errors are measured, shape ``(O,)``."""
        scale = self.scales[weight]
        return np.ones(self.sites.shapes[weight][0]) if scale is None else scale

    def _shift_target(self, weight: str) -> tuple[str, float] | None:
        """The tensor that takes the intercept; None if another consumer has the same one (a shared BatchNorm)."""
        places = {name: shift_target(consumer, self.sites.shapes) for name, consumer in self.sites.consumers.items()}
        return places[weight] if list(places.values()).count(places[weight]) == 1 else None

    def _unscale(self, weight: str, like: Tensor) -> Tensor:
        """Convert a difference behind a consumer's BatchNorm to one in front of it, for each output."""
        scale = self.scales[weight]
        return torch.ones((), dtype=like.dtype, device=like.device) if scale is None else _inverse(scale).to(like)


def _inverse(scale: FloatArray) -> Tensor:
    """1 / scale; 0 where the scale is negligible beside the others, because BatchNorm suppresses such an output."""
    seen = np.abs(scale) > 1e-6 * np.abs(scale).max()
    return torch.from_numpy(np.divide(1.0, scale, out=np.zeros_like(scale), where=seen))
