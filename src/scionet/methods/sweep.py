"""The walk through a network that every method shares: allocate, rank, refit.

What differs between methods is the `Ranker`. Sites are decided from input to output. A site with one consumer is
decided when the walk reaches that consumer, on inputs of the network pruned so far; a site with several (a residual
stream) before the walk, on inputs of the dense network. Then each consumer's weights are refitted when it is reached.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from scionet.budget.costs import CostModel
from scionet.budget.ladder import TOLERANCE, describe
from scionet.budget.limits import Budget
from scionet.errors import InvalidSetting, UnreachableBudget
from scionet.methods.apart import kept_apart
from scionet.methods.contract import Method, Ranker, SiteView
from scionet.methods.fitting import Fitting
from scionet.methods.recalibration import recalibrated
from scionet.methods.reconstruction import Material, reconstructed, refuse_processes
from scionet.methods.survey import survey
from scionet.methods.widths import Allocator, Forecast
from scionet.network.gates import gated_tensors
from scionet.network.lockstep import Stop, lockstep
from scionet.network.moments import Moments
from scionet.network.plan import Choice, Plan
from scionet.network.processes import overall_index
from scionet.network.running import undisturbed
from scionet.network.sites import Site, Sites
from scionet.progress import Progress, silent
from scionet.seeds import seeded
from scionet.selection.greedy import Selection, shortened
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
        costs: CostModel | None = None,
    ) -> Plan:
        """Choose; see `Method.select`."""
        return self.select_each(model, batches, sites, [budget], seed, progress, costs)[0]

    def select_each(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        sites: Sites,
        budgets: Sequence[Budget | None],
        seed: int,
        progress: Progress = silent,
        costs: CostModel | None = None,
    ) -> list[Plan]:
        """Choose for each budget; what widths are decided by is measured once.

        Raises:
            InvalidSetting: If there is neither a budget nor a stop rule, or both;
                or if the seed is no whole number from 0 on.
            UnreachableBudget: If no widths meet a budget, or a line search without refit has no use for enough units
                to come within 1 % of it.
            CalibrationError: If the calibration data are empty or make the network produce NaN or infinite values.
        """
        stop_rule = getattr(self.settings, "tolerance", None) is not None
        if any((budget is None) != stop_rule for budget in budgets):
            raise InvalidSetting("give either a budget (such as 'macs<=50%') or a tolerance with objective 'loss'")
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise InvalidSetting(f"the seed must be a whole number from 0 on; given {seed!r}")
        judged: list[Any] = []
        if self.settings.reconstruct_steps:
            refuse_processes()
            with undisturbed(model):  # a data loader takes its seed from torch's generator
                batches, judged = kept_apart(batches)
        fitting, draw = Fitting(model, sites, self.settings), seeded(seed)
        inputs = _Inputs(batches) if self.uses_labels else batches
        ranker = self.ranker.ready(model, sites, batches)
        allocator = Allocator(ranker, fitting, inputs, costs or CostModel(sites), draw, progress)
        plans = [_grown(_Task(self, batches, seed, allocator), budget) for budget in budgets]
        if not self.settings.reconstruct_steps:
            return plans
        material = Material([*inputs], [*(_Inputs(judged) if self.uses_labels else judged)], seed)
        return [reconstructed(model, sites, plan, material, self.settings, progress) for plan in plans]


@dataclass(frozen=True, eq=False)
class _Task:
    """What all runs of one method on one network share."""

    method: Sweep
    batches: Iterable[Any]
    seed: int
    allocator: Allocator


def _grown(task: _Task, budget: Budget | None) -> Plan:
    """A plan that uses the budget up; where sites cannot use their share, others get it.

    Raises:
        UnreachableBudget: If all sites together cannot use it.
    """
    most: dict[str, int] = {}
    while True:
        growth = _Growth(task)
        growth.grow(budget, most)
        if budget is None or growth.fills(budget):
            return growth.plan()
        known, most = most, most | growth.saturated()
        if most == known:
            raise UnreachableBudget(growth.too_few_useful(budget))


class _Growth:
    """One run: what has been decided so far."""

    def __init__(self, task: _Task) -> None:
        self.method, self.batches, self.seed, self.allocator = task.method, task.batches, task.seed, task.allocator
        self.settings, self.ranker = task.method.settings, task.allocator.ranker
        self.fitting, self.inputs = task.allocator.fitting, task.allocator.inputs
        self.rng, self.progress = task.allocator.draw, task.allocator.progress
        self.model, self.sites = self.fitting.model, self.fitting.sites
        self.widths: dict[str, int] = {}
        self.choices: dict[str, Choice] = {}
        self.gates: dict[str, Tensor] = {}
        self.tensors: dict[str, Tensor] = {}
        self.shifts: dict[str, Tensor | None] = {}
        self.effective: dict[str, Tensor] = {}
        self.paths: Mapping[str, Selection] = {}
        self.forecast: Forecast | None = None
        self.certified: dict[str, float] = {}
        self.pending: Moments | None = None

    def grow(self, budget: Budget | None, most: Mapping[str, int]) -> None:
        """Decide all sites; those in `most` keep at most so many units, since they could not use more."""
        self.allocate(budget, most)
        self.decide_streams()
        if self.settings.refit or self.ranker.uses_moments:
            self.walk()
        else:
            self.decide_rest()

    # -- widths -----------------------------------------------------------------------------------------------------

    def allocate(self, budget: Budget | None, most: Mapping[str, int]) -> None:
        """How many units each site keeps."""
        if budget is None:
            self.widths = {name: site.width for name, site in self.sites.items()}
            return
        shares = self.allocator.shares(budget, most)
        self.widths, self.paths, self.forecast = dict(shares.widths), shares.paths, shares.forecast

    @property
    def kept(self) -> dict[str, int]:
        """Number of units that each site keeps."""
        return {name: len(choice.kept) for name, choice in self.choices.items()}

    def fills(self, budget: Budget) -> bool:
        """Whether what is kept uses the budget up to within the tolerance, or everything is kept."""
        model = self.allocator.costs
        spare = budget.slack(model.cost(self.kept), model.dense)
        return spare <= TOLERANCE or all(self.kept[name] == site.width for name, site in self.sites.items())

    def saturated(self) -> dict[str, int]:
        """Sites that kept fewer units than they might, with how many they kept."""
        return {name: self.kept[name] for name, width in self.widths.items() if self.kept[name] < width}

    def too_few_useful(self, budget: Budget) -> str:
        """Why the budget cannot be used up."""
        model = self.allocator.costs
        return (
            f"the budget {budget} cannot be used up: line search gives weight to so few units that the network it "
            f"makes has {describe(model.cost(self.kept), model.dense)}; set the budget to that, or have consumers "
            "refitted (refit=True), which makes use of every unit"
        )

    # -- decisions --------------------------------------------------------------------------------------------------

    def decide(self, view: SiteView) -> None:
        """Choose the units of one site."""
        self.settle_on(view.site, self.allocator.rank(view, self.widths[view.site.name]))

    def settle_on(self, site: Site, selection: Selection) -> None:
        """Take a selection as the site's choice."""
        gate = self.fitting.gate(site, selection)
        weights = tuple(gate[list(selection.kept)].tolist())
        self.choices[site.name] = Choice(
            site.name, site.width, selection.kept, weights, selection.order, selection.values, selection.status.value
        )
        self.gates[site.name] = gate
        if selection.certified is not None:
            self.certified[site.name] = selection.certified

    def view(self, site: Site, weight: str | None = None) -> SiteView:
        """What is known of a site now; with the moments of its consumer `weight`, if the walk is there."""
        bare = SiteView(site, self.sites, self.model, (), self.gates, self.tensors, self.batches)
        if weight is None or self.pending is None:
            return bare
        terms = (self.fitting.term(site, weight, self.pending, self.gates),)
        return replace(bare, terms=terms, repair=self.fitting.repair(site, {weight: self.pending}))

    def decide_streams(self) -> None:
        """Decide the sites that cannot wait for the walk."""
        early = [name for name, site in self.sites.items() if not self.fitting.waits(site)]
        if self.ranker.uses_labels or not early:
            return
        if not self.ranker.uses_moments:
            for name in early:
                self.decide(self.view(self.sites[name]))
            return
        for name, path in self.paths.items():
            self.settle_on(self.sites[name], shortened(path, self.widths[name]))
        rest = [name for name in early if name not in self.choices]
        if rest:
            for view, _ in survey(self.fitting, self.allocator.surveyed, rest, self.rng, self.progress):
                self.decide(replace(view, gates=self.gates, batches=self.inputs))

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
        taken: Counter[str] = Counter()
        done = 0

        def observe(present: tuple[Stop, ...]) -> None:
            weight = present[0].weight
            if self.wants_moments(weight):
                rng = self.rng("positions", weight, overall_index(taken[weight]))
                moments = self.fitting.moments(present[0], present[1], rng)
                taken[weight] += 1
                self.pending = moments if self.pending is None else self.pending + moments

        with lockstep(self.model, self.inputs, stops, 2, self.settings.memory_gib * 2**30) as march:
            while (weight := march.step(self.answer, observe)) is not None:
                self.pending = None if self.pending is None else self.pending.over_processes()
                self.settle(weight)
                self.pending = None
                done += 1
                self.progress("select", done, sum(consumer.calls for consumer in consumers.values()))

    def wants_moments(self, weight: str) -> bool:
        """Whether something is fitted at a consumer, or chosen by what it sees."""
        chooses = self.ranker.uses_moments and any(s.name not in self.choices for s in self.fed_by(weight))
        return self.fitting.called_once(weight) and (self.settings.refit or chooses)

    def fed_by(self, weight: str) -> list[Site]:
        """The sites that a consumer contracts over."""
        return [site for site in self.sites.values() if weight in site.consumers]

    def settle(self, weight: str) -> None:
        """All batches are at a consumer: decide its sites, refit it, and know what it computes from here on."""
        feeding = self.fed_by(weight)
        for site in feeding:
            if site.name not in self.choices:
                self.decide(self.view(site, weight))
        gates = {site.name: self.gates[site.name] for site in feeding}
        if self.settings.refit and self.pending is not None and self.touched():
            fitted = self.fitting.refit(weight, self.pending, gates)
            self.tensors.update(fitted.tensors)
            self.shifts[weight] = fitted.shift
        self.effective[weight] = gated_tensors(self.model, self.sites, gates, self.tensors)[weight]

    def touched(self) -> bool:
        """Whether anything was removed or re-weighted so far: where nothing was, dense weights are the best ones."""
        return any(bool((gate != 1).any()) for gate in self.gates.values())

    def answer(self, present: tuple[Stop, ...]) -> list[Tensor]:
        """Outputs of the consumer at which all batches are: dense, and pruned."""
        dense, pruned = present
        out = pruned.run(self.effective[pruned.weight])
        shift = self.shifts.get(pruned.weight)
        if shift is not None:
            out.add_(shift.view([-1 if d == 1 else 1 for d in range(out.ndim)]))
        return [dense.output, out]

    def plan(self) -> Plan:
        """The result."""
        masked = gated_tensors(self.model, self.sites, self.gates, self.tensors)
        if self.settings.recalibrate:
            statistics = recalibrated(self.model, masked, self.inputs)
            self.tensors.update(statistics)
            masked |= statistics
        status = _summary(self.choices, self.certified)
        if self.forecast is not None:
            status += f"; {self.forecast.against(masked)}"
        return Plan(
            choices=tuple(self.choices[name] for name in self.sites if name in self.choices),
            tensors=self.tensors,
            method=self.method.name,
            settings=asdict(self.settings),
            seed=self.seed,
            dense_hash=self.sites.dense_hash,
            status=status,
        )


class _Inputs:
    """Batches of pairs without their labels, iterable again and again."""

    def __init__(self, pairs: Iterable[Any]) -> None:
        self.pairs = pairs

    def __iter__(self) -> Any:
        return (pair[0] for pair in self.pairs)


def _summary(choices: Mapping[str, Choice], certified: Mapping[str, float]) -> str:
    """How many sites ended in which way, and what is certified of them."""
    counts: dict[str, int] = {}
    for choice in choices.values():
        counts[choice.status] = counts.get(choice.status, 0) + 1
    summary = "; ".join(f"{count} sites: {text}" for text, count in counts.items())
    if not certified:
        return summary
    least = min(certified, key=lambda name: certified[name])
    return (
        f"{summary}; certified share of the best possible reduction of the error: median "
        f"{np.median([*certified.values()]):.1%}, least {certified[least]:.1%} (site {least})"
    )
