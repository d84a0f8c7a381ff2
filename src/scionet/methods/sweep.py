"""The walk through a network that every method shares: survey, allocate, rank, refit.

What differs between methods is the `Ranker`. Sites are decided from input to output. A site with one consumer is
decided when the walk reaches that consumer, on inputs of the network pruned so far; a site with several (a residual
stream) before the walk, on inputs of the dense network. Then each consumer's weights are refitted when it is reached.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.budget.allocate import by_curves, uniform
from scionet.budget.costs import CostModel
from scionet.budget.limits import Budget
from scionet.errors import InvalidSetting
from scionet.methods.contract import Method, Progress, Ranker, SiteView, silent
from scionet.methods.problems import flat_columns, kept_channels, make_term, norm_scale, shift_target
from scionet.methods.survey import survey
from scionet.network.gates import gated_tensors
from scionet.network.lockstep import Stop, lockstep
from scionet.network.moments import Moments, input_rows, output_rows, sample_positions, unflatten_weight
from scionet.network.plan import Choice, Plan
from scionet.network.running import state_of
from scionet.network.sites import Site, Sites
from scionet.selection.greedy import Selection
from scionet.selection.regression import refit
from scionet.settings import SweepSettings


class Sweep(Method):
    """A method made of a ranker and the shared walk."""

    def __init__(self, name: str, settings: SweepSettings, ranker: Ranker) -> None:
        self.name, self.settings, self.ranker = name, settings, ranker
        self.uses_labels = ranker.uses_labels

    def select(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        sites: Sites,
        budget: Budget | None,
        seed: int,
        progress: Progress = silent,
    ) -> Plan:
        """Choose; see `Method.select`.

        Raises:
            InvalidSetting: If there is neither a budget nor a stop rule, or both.
            UnreachableBudget: If no widths meet the budget.
            CalibrationError: If the calibration data are empty or make the network produce NaN or infinite values.
        """
        stop_rule = getattr(self.settings, "tolerance", None) is not None
        if (budget is None) != stop_rule:
            raise InvalidSetting("give either a budget (such as 'macs<=50%') or a tolerance with objective 'loss'")
        growth = _Growth(self, model, batches, sites, seed, progress)
        growth.allocate(budget)
        growth.decide_streams()
        if self.settings.refit or self.ranker.uses_moments:
            growth.walk()
        else:
            growth.decide_rest()
        return growth.plan()


class _Growth:
    """One run: what has been decided so far."""

    def __init__(
        self, method: Sweep, model: nn.Module, batches: Iterable[Any], sites: Sites, seed: int, progress: Progress
    ) -> None:
        self.method, self.settings, self.ranker = method, method.settings, method.ranker
        self.model, self.batches, self.sites, self.seed, self.progress = model, batches, sites, seed, progress
        self.state = state_of(model)
        self.widths: dict[str, int] = {}
        self.choices: dict[str, Choice] = {}
        self.gates: dict[str, Tensor] = {}
        self.tensors: dict[str, Tensor] = {}
        self.shifts: dict[str, Tensor] = {}
        self.effective: dict[str, Tensor] = {}
        self.pending: Moments | None = None

    def rng(self, *axes: str) -> np.random.Generator:
        """A generator of its own for each named purpose, so that none depends on what others drew."""
        return np.random.default_rng([self.seed, *(b for axis in axes for b in axis.encode())])

    @property
    def inputs(self) -> Iterable[Any]:
        """Calibration batches without their labels."""
        return _Inputs(self.batches) if self.ranker.uses_labels else self.batches

    # -- widths -----------------------------------------------------------------------------------------------------

    def allocate(self, budget: Budget | None) -> None:
        """How many units each site keeps."""
        if budget is None:
            self.widths = {name: site.width for name, site in self.sites.items()}
            return
        model = CostModel(self.sites)
        options = {"round_to": self.settings.round_to, "min_units": self.settings.min_units}
        if self.settings.allocation == "uniform":
            self.widths = uniform(model, budget, **options)
        else:
            self.widths = by_curves(model, budget, self.error_curves(), **options)

    def error_curves(self) -> dict[str, np.ndarray]:
        """Per site the relative error at its consumers for each number of kept units, 0 to N."""
        curves = {}
        for view in self.survey(self.sites):
            path = self.rank(view, view.site.width)
            curves[view.site.name] = error_curve(path, view.site.width)
        return curves

    def survey(self, names: Iterable[str]) -> Iterable[SiteView]:
        """The named sites in the dense network."""
        rng = self.rng("survey")
        return survey(self.model, self.inputs, self.sites, names, self.settings, rng, self.progress)

    # -- decisions --------------------------------------------------------------------------------------------------

    def rank(self, view: SiteView, n_units: int) -> Selection:
        """The ranker's answer, with randomness of the site's own."""
        return self.ranker.rank(view, n_units, self.rng("rank", view.site.name))

    def decide(self, view: SiteView) -> None:
        """Choose the units of one site."""
        site = view.site
        selection = self.rank(view, self.widths[site.name])
        weights = (1.0,) * len(selection.kept) if self.settings.refit else selection.weights
        self.choices[site.name] = Choice(
            site.name, site.width, selection.kept, weights, selection.order, selection.values, selection.status.value
        )
        gate = torch.zeros(site.width, dtype=torch.float64)
        gate[list(selection.kept)] = torch.tensor(weights, dtype=torch.float64)
        self.gates[site.name] = gate

    def view(self, site: Site, terms: Sequence[Any] = ()) -> SiteView:
        """What is known of a site now."""
        return SiteView(site, self.sites, self.model, terms, self.gates, self.tensors, self.batches)

    def decided_on_arrival(self, site: Site) -> bool:
        """Whether the site waits for the walk: its one consumer is called once."""
        return len(site.consumers) == 1 and self.sites.consumers[site.consumers[0]].calls == 1

    def decide_streams(self) -> None:
        """Decide the sites that cannot wait for the walk."""
        early = [name for name, site in self.sites.items() if not self.decided_on_arrival(site)]
        if self.ranker.uses_labels or not early:
            return
        if not self.ranker.uses_moments:
            for name in early:
                self.decide(self.view(self.sites[name]))
            return
        for view in self.survey(early):
            self.decide(replace(view, gates=self.gates))

    def decide_rest(self) -> None:
        """Decide all other sites without a walk."""
        for number, (name, site) in enumerate(self.sites.items()):
            if name not in self.choices:
                self.progress("select", number, len(self.sites))
                self.decide(self.view(site))

    # -- the walk ---------------------------------------------------------------------------------------------------

    def walk(self) -> None:
        """Take the dense and the growing network from consumer to consumer."""
        consumers = self.sites.consumers
        stops = {name: consumer.shortcut if self.settings.shortcuts else None for name, consumer in consumers.items()}
        rng = self.rng("positions")
        done = 0

        def observe(present: tuple[Stop, ...]) -> None:
            if self.wants_moments(present[0].weight):
                moments = self.moments(*present, rng)
                self.pending = moments if self.pending is None else self.pending + moments

        with lockstep(self.model, self.inputs, stops, 2, self.settings.memory_gib * 2**30) as march:
            while (weight := march.step(self.answer, observe)) is not None:
                self.settle(weight)
                self.pending = None
                done += 1
                self.progress("select", done, sum(consumer.calls for consumer in consumers.values()))

    def wants_moments(self, weight: str) -> bool:
        """Whether something is fitted at a consumer, or chosen by what it sees."""
        consumer = self.sites.consumers[weight]
        chooses = self.ranker.uses_moments and any(s.name not in self.choices for s in self.fed_by(weight))
        return consumer.calls == 1 and (self.settings.refit or chooses)

    def fed_by(self, weight: str) -> list[Site]:
        """The sites that a consumer contracts over."""
        return [site for site in self.sites.values() if weight in site.consumers]

    def moments(self, dense: Stop, pruned: Stop, rng: np.random.Generator) -> Moments:
        """Inputs of the pruned network and targets of the dense one at one consumer, for one batch."""
        consumer = self.sites.consumers[dense.weight]
        positions = sample_positions(dense, dense.output.shape, self.settings.positions, rng)
        target = output_rows(dense.output_without_bias, positions)
        source = pruned if self.settings.asymmetric else dense
        if self.settings.asymmetric and dense.shortcut is not None and pruned.shortcut is not None:
            gap = output_rows(dense.shortcut, positions) - output_rows(pruned.shortcut, positions)
            target = target + gap.view_as(target) * self.unscale(consumer.weight, target)
        return Moments.of(input_rows(source, positions), target)

    def unscale(self, weight: str, like: Tensor) -> Tensor:
        """What a difference behind a consumer's BatchNorm amounts to in front of it, per output."""
        scale = norm_scale(self.model, self.sites.consumers[weight])
        if scale is None:
            return torch.ones((), dtype=like.dtype, device=like.device)
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=np.abs(scale) > 1e-6 * np.abs(scale).max())
        return torch.as_tensor(inverse, dtype=like.dtype, device=like.device)

    def settle(self, weight: str) -> None:
        """All batches are at a consumer: decide its sites, refit it, and know what it computes from here on."""
        for site in self.fed_by(weight):
            if site.name not in self.choices:
                terms = (self.term(site, weight),) if self.pending is not None else ()
                self.decide(self.view(site, terms))
        if self.settings.refit and self.pending is not None:
            self.refit(weight, self.pending)
        gates = {site.name: self.gates[site.name] for site in self.fed_by(weight)}
        self.effective[weight] = gated_tensors(self.model, self.sites, gates, self.tensors)[weight]

    def term(self, site: Site, weight: str) -> Any:
        """The problem of one site at the consumer where all batches are."""
        assert self.pending is not None
        consumer = self.sites.consumers[weight]
        present = kept_channels(self.sites, weight, self.gates, without=site.name)
        scale = norm_scale(self.model, consumer)
        return make_term(site, weight, self.state[weight], self.pending, present, scale, self.centred(weight))

    def centred(self, weight: str) -> bool:
        """Whether a refit may shift the consumer's output."""
        return self.settings.refit and shift_target(self.sites.consumers[weight], self.sites.shapes) is not None

    def refit(self, weight: str, moments: Moments) -> None:
        """Fit a consumer's weights on the channels that are present, and its intercept where there is a place."""
        dense = self.state[weight]
        columns = flat_columns(kept_channels(self.sites, weight, self.gates), dense)
        xx, xy, _ = moments.means(self.centred(weight))
        fitted = refit(xx, xy, columns, self.settings.ridge)
        self.tensors[weight] = unflatten_weight(torch.from_numpy(fitted), dense.shape).to(dense)
        place = shift_target(self.sites.consumers[weight], self.sites.shapes)
        if place is not None:
            name, sign = place
            shift = torch.from_numpy(moments.shift(fitted)).to(self.state[name])
            self.tensors[name] = self.state[name] + sign * shift
            self.shifts[weight] = shift

    def answer(self, present: tuple[Stop, ...]) -> list[Tensor]:
        """Outputs of the consumer at which all batches are: dense, and pruned."""
        dense, pruned = present
        out = pruned.run(self.effective[pruned.weight])
        shift = self.shifts.get(pruned.weight)
        if shift is not None:
            out = out + shift.view([-1 if d == 1 else 1 for d in range(out.ndim)])
        return [dense.output, out]

    def plan(self) -> Plan:
        """The result."""
        return Plan(
            choices=tuple(self.choices[name] for name in self.sites if name in self.choices),
            tensors={name: tensor.detach() for name, tensor in self.tensors.items()},
            method=self.method.name,
            settings=asdict(self.settings),
            seed=self.seed,
            dense_hash=self.sites.dense_hash,
            status=_summary(self.choices),
        )


class _Inputs:
    """Batches of pairs without their labels, iterable again and again."""

    def __init__(self, pairs: Iterable[Any]) -> None:
        self.pairs = pairs

    def __iter__(self) -> Any:
        return (pair[0] for pair in self.pairs)


def error_curve(path: Selection, width: int) -> np.ndarray:
    """Smallest relative error with at most 0 .. N units, shape ``(N + 1,)``."""
    curve = np.full(width + 1, np.inf)
    seen: set[int] = set()
    for unit, value in zip(path.order, path.values, strict=True):
        seen.add(unit)
        curve[len(seen)] = min(curve[len(seen)], -value)
    return np.minimum.accumulate(curve)


def _summary(choices: Mapping[str, Choice]) -> str:
    """How many sites ended in which way."""
    counts: dict[str, int] = {}
    for choice in choices.values():
        counts[choice.status] = counts.get(choice.status, 0) + 1
    return "; ".join(f"{count} sites: {text}" for text, count in counts.items())
