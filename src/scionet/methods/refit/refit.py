"""What is measured at a network's consumers, and what is fitted there."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from scionet.methods.contract import Repair
from scionet.methods.refit.regression_problems import (
    FloatArray,
    channel_gates,
    flat_columns,
    make_term,
    norm_scale,
    output_gates,
    per_column,
    shift_target,
)
from scionet.methods.refit.shrinkage import fitted_weight, held_out, judged_shrinkage
from scionet.network.calling import state_of
from scionet.network.passes.moments import Moments, input_rows, output_rows, sample_positions, unflatten_weight
from scionet.network.passes.suspended import Stop
from scionet.network.sites import Address, Site, Sites
from scionet.network.surgery.gates import gated_tensors
from scionet.selection.greedy import Selection
from scionet.selection.terms import Term
from scionet.settings import SweepSettings


@dataclass(frozen=True, eq=False)
class Fitted:
    """A consumer after its refit.

    Attributes:
        tensors: Replacements in dense shapes: its weight, and what takes its intercept.
        shift: The intercept, shape ``(O,)``; None where there is no place for one.
    """

    tensors: Mapping[str, Tensor]
    shift: Tensor | None


@dataclass(frozen=True, eq=False)
class Fitting:
    """Measures and fits the consumers of one network.

    Attributes:
        model: The dense network.
        sites: Its sites.
        settings: How to measure and fit.
    """

    model: nn.Module
    sites: Sites
    settings: SweepSettings

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The dense network's tensors; looked up once, since a walk asks at every batch of every consumer."""
        return state_of(self.model)

    @cached_property
    def scales(self) -> dict[str, FloatArray | None]:
        """For each consumer the factor of the BatchNorm behind it."""
        return {name: norm_scale(self.model, self.state, consumer) for name, consumer in self.sites.consumers.items()}

    @cached_property
    def stops(self) -> dict[str, Address | None]:
        """Every consumer, with the shortcut for whose damage it makes up."""
        consumers = self.sites.consumers.items()
        return {name: consumer.shortcut if self.settings.shortcuts else None for name, consumer in consumers}

    def dense_moments(self, stop: Stop, rng: np.random.Generator) -> Moments:
        """Moments of one batch at one consumer: its inputs, and what it makes of them without its bias."""
        positions = sample_positions(stop, stop.output.shape, self.settings.positions, rng)
        target = output_rows(stop.output_without_bias, positions)
        return Moments.of(input_rows(stop, positions), target, self._held(len(stop.output), len(target), rng))

    def moments(self, dense: Stop, pruned: Stop, rng: np.random.Generator) -> Moments:
        """Inputs of the pruned network and targets of the dense one at one consumer, for one batch."""
        if not self.settings.asymmetric:
            return self.dense_moments(dense, rng)
        positions = sample_positions(dense, dense.output.shape, self.settings.positions, rng)
        target = output_rows(dense.output_without_bias, positions)
        if dense.shortcut is not None and pruned.shortcut is not None:
            # linear maps see all leading dimensions as one, the residual sum does not
            gap = (dense.shortcut - pruned.shortcut).reshape(dense.output.shape)
            target = target + output_rows(gap, positions) * self._unscale(dense.weight, target)
        return Moments.of(input_rows(pruned, positions), target, self._held(len(dense.output), len(target), rng))

    def term(self, site: Site, weight: str, moments: Moments, gates: Mapping[str, Tensor]) -> Term:
        """The problem of one site at one of its consumers, when the sites in `gates` are decided.

        Errors are measured behind the consumer's BatchNorm; at outputs that were cut they do not count.
        """
        return make_term(
            site,
            weight,
            self.state[weight],
            moments,
            channel_gates(self.sites, weight, gates, without=site.name),
            output_gates(self.sites, weight, gates) * self._metric(weight),
            centred=self.settings.refit and self._shift_target(weight) is not None,
            shrinkage=self._given_shrinkage if self.settings.refit else 0.0,
        )

    def refit(self, weight: str, moments: Moments, gates: Mapping[str, Tensor]) -> Fitted:
        """Fit a consumer's weights on the channels that are present, and its intercept where there is a place.

        The weights are such that they are right behind the gates.
        """
        state, place = self.state, self._shift_target(weight)
        dense, factors = state[weight], channel_gates(self.sites, weight, gates)
        columns, shrinkage = flat_columns(np.flatnonzero(factors), dense), self._given_shrinkage
        if self.settings.shrinkage == "held_out":
            shrinkage = judged_shrinkage(moments, place is not None, dense, columns, self._metric(weight))
        flat = fitted_weight(moments, place is not None, dense, columns, shrinkage)
        ungated = torch.from_numpy(flat / per_column(factors, dense))
        fitted = {weight: unflatten_weight(ungated, dense.shape).to(dense)}
        if place is None:
            return Fitted(fitted, None)
        name, sign = place
        shift = torch.from_numpy(moments.shift(flat)).to(state[name])
        return Fitted({**fitted, name: (state[name] + sign * shift).detach()}, shift)

    def repair(self, site: Site, moments: Mapping[str, Moments]) -> Repair:
        """What choices of one site's units make of the network, given the moments of the site's consumers."""

        def repaired(
            selection: Selection, gates: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
        ) -> dict[str, Tensor]:
            gates, tensors = {**gates, site.name: self.gate(site, selection)}, dict(tensors)
            for consumer in site.consumers if self.settings.refit else ():
                if self.called_once(consumer):
                    tensors.update(self.refit(consumer, moments[consumer], gates).tensors)
            return gated_tensors(self.model, self.sites, gates, tensors)

        return repaired

    def called_once(self, weight: str) -> bool:
        """Whether one forward pass runs a consumer once: others are not refitted."""
        return self.sites.consumers[weight].calls == 1

    def waits(self, site: Site) -> bool:
        """Whether a site is decided when the walk reaches its consumer: it has one, which is called once."""
        return len(site.consumers) == 1 and self.called_once(site.consumers[0])

    def gate(self, site: Site, selection: Selection) -> Tensor:
        """The gates of a selection, shape ``(width,)``; 1 for kept units where refits take their weights over."""
        absorbed = self.settings.refit and all(self.called_once(consumer) for consumer in site.consumers)
        gate = torch.zeros(site.width, dtype=torch.float64)
        gate[list(selection.kept)] = torch.tensor(1.0 if absorbed else selection.weights, dtype=torch.float64)
        return gate

    @property
    def _given_shrinkage(self) -> float | None:
        """A number, or what the rows seen decide; units are chosen by the latter before anything is judged."""
        return None if self.settings.shrinkage == "held_out" else self.settings.shrinkage

    def _held(self, n_examples: int, n_rows: int, rng: np.random.Generator) -> slice | None:
        """The rows of a batch by which shrinkages are judged, if they are: all of some examples."""
        if self.settings.shrinkage != "held_out":
            return None
        each, examples = n_rows // n_examples, held_out(n_examples, rng)
        return slice(examples.start * each, examples.stop * each)

    def _metric(self, weight: str) -> FloatArray:
        """The factor of each output in which errors are measured, shape ``(O,)``."""
        scale = self.scales[weight]
        return np.ones(self.sites.shapes[weight][0]) if scale is None else scale

    def _shift_target(self, weight: str) -> tuple[str, float] | None:
        """Where the intercept goes; nowhere if another consumer's would go to the same place (a shared BatchNorm)."""
        places = {name: shift_target(consumer, self.sites.shapes) for name, consumer in self.sites.consumers.items()}
        return places[weight] if list(places.values()).count(places[weight]) == 1 else None

    def _unscale(self, weight: str, like: Tensor) -> Tensor:
        """What a difference behind a consumer's BatchNorm amounts to in front of it, per output."""
        scale = self.scales[weight]
        return torch.ones((), dtype=like.dtype, device=like.device) if scale is None else _inverse(scale).to(like)


def _inverse(scale: FloatArray) -> Tensor:
    """1 / scale; 0 where the scale is 0 beside the others, since no output of any size could be seen behind it."""
    seen = np.abs(scale) > 1e-6 * np.abs(scale).max()
    return torch.from_numpy(np.divide(1.0, scale, out=np.zeros_like(scale), where=seen))
