"""One walk through a network: its sites are decided, and its consumers refitted.

Sites are decided from input to output. A site with one consumer is decided when the walk reaches that consumer, on
inputs of the network pruned so far; a site with several (a residual stream) before the walk, on inputs of the dense
network, or of the one that the sweep before made. Then each consumer's weights are refitted when it is reached.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from scionet.methods.contract import SiteView
from scionet.methods.refit.survey import Pruned, survey
from scionet.methods.repair.recalibration import recalibrated
from scionet.methods.widths.allocator import Allocator, SharedWidths
from scionet.network.multiprocess import overall_index
from scionet.network.passes.moments import Moments
from scionet.network.passes.suspended import Stop, suspended_passes
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Site
from scionet.network.surgery.gates import gated_tensors
from scionet.progress import Progress
from scionet.selection.greedy import Selection, shortened


@dataclass(frozen=True, eq=False)
class Task:
    """What all walks of one method through one network share.

    Attributes:
        name: Of the method.
        seed: Root of all randomness.
        batches: Calibration data, with labels if the ranker uses them.
        inputs: The same without labels, or a part of them.
        allocator: SharedWidths the budget out; knows the ranker and the fitting.
        progress: Is told what goes on.
    """

    name: str
    seed: int
    batches: Iterable[Any]
    inputs: Iterable[Any]
    allocator: Allocator
    progress: Progress


class Walk:
    """One walk: what has been decided so far."""

    def __init__(self, task: Task, shares: SharedWidths, before: "Walk | None" = None) -> None:
        """Begin.

        Args:
            task: What is to be done.
            shares: How many units each site keeps, at most.
            before: The sweep before this one.
        """
        self.task, self.shares, self.before = task, shares, before
        self.allocator, self.ranker, self.fitting = task.allocator, task.allocator.ranker, task.allocator.fitting
        self.model, self.sites, self.settings = self.fitting.model, self.fitting.sites, self.fitting.settings
        self.inputs, self.rng, self.progress = task.inputs, self.allocator.generators, task.progress
        self.choices: dict[str, Choice] = {}
        self.gates: dict[str, Tensor] = {}
        self.tensors: dict[str, Tensor] = {}
        self.shifts: dict[str, Tensor | None] = {}
        self.effective: dict[str, Tensor] = {}
        self.certified: dict[str, float] = {}
        self.pending: Moments | None = None

    def grow(self) -> "Walk":
        """Decide all sites."""
        self.decide_streams()
        if self.settings.refit or self.ranker.uses_moments:
            self.walk()
        else:
            self.decide_rest()
        return self

    def again(self) -> "Walk":
        """Another sweep at the same widths: each site is chosen knowing what this one kept elsewhere."""
        return Walk(self.task, replace(self.shares, paths={}), before=self).grow()

    @property
    def kept(self) -> dict[str, int]:
        """Number of units that each site keeps."""
        return {name: len(choice.kept) for name, choice in self.choices.items()}

    @property
    def masked(self) -> dict[str, Tensor]:
        """Tensors of the masked network."""
        return gated_tensors(self.model, self.sites, self.gates, self.tensors)

    # -- decisions --------------------------------------------------------------------------------------------------

    def decide(self, view: SiteView) -> None:
        """Choose the units of one site."""
        self.settle_on(view.site, self.allocator.rank(view, self.shares.widths[view.site.name]))

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

    @property
    def known(self) -> dict[str, Tensor]:
        """The gates of this sweep, and those of the one before where nothing is decided yet."""
        return {**({} if self.before is None else self.before.gates), **self.gates}

    def view(self, site: Site, weight: str | None = None) -> SiteView:
        """What is known of a site now; with the moments of its consumer `weight`, if the walk is there."""
        bare = SiteView(site, self.sites, self.model, (), self.gates, self.tensors, self.task.batches)
        if weight is None or self.pending is None:
            return bare
        terms = (self.fitting.term(site, weight, self.pending, self.known),)
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
        for name, path in self.shares.paths.items():
            self.settle_on(self.sites[name], shortened(path, self.shares.widths[name]))
        rest = [name for name in early if name not in self.choices]
        if rest:
            pruned = None if self.before is None else Pruned(self.before.gates, self.before.answer)
            for view, _ in survey(self.fitting, self.allocator.surveyed, rest, self.rng, self.progress, pruned):
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
        taken: Counter[str] = Counter()
        done = 0

        def observe(present: tuple[Stop, ...]) -> None:
            weight = present[0].weight
            if self.wants_moments(weight):
                rng = self.rng("positions", weight, overall_index(taken[weight]))
                moments = self.fitting.moments(present[0], present[1], rng)
                taken[weight] += 1
                self.pending = moments if self.pending is None else self.pending + moments

        with suspended_passes(
            self.model, self.inputs, self.fitting.stops, 2, self.settings.memory_gib * 2**30
        ) as passes:
            while (weight := passes.step(self.answer, observe)) is not None:
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
        masked = self.masked
        if self.settings.recalibrate:
            statistics = recalibrated(self.model, masked, self.inputs)
            self.tensors.update(statistics)
            masked |= statistics
        status = _summary(self.choices, self.certified)
        status += f"; {self.shares.tried}" if self.shares.tried else ""
        if self.shares.prediction is not None:
            status += f"; {self.shares.prediction.against(masked)}"
        return Plan(
            choices=tuple(self.choices[name] for name in self.sites if name in self.choices),
            tensors=self.tensors,
            method=self.task.name,
            settings=asdict(self.settings),
            seed=self.task.seed,
            dense_hash=self.sites.dense_hash,
            status=status,
        )


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
