"""Walk: one pass through a network that selects units at every site and refits every consumer.

Sites are decided from input to output. A site with one consumer is decided when the walk reaches that consumer, on
inputs of the network pruned so far. A site with several (a residual stream) is decided before the walk, on inputs of
the dense network, or of the network that the pass before made. Each consumer is refitted when it is reached.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from scionet.methods.calibration.calibration import Calibration
from scionet.methods.contract import SiteView
from scionet.methods.depth.constants import BranchConstants
from scionet.methods.method_run import MethodRun, Sampler
from scionet.methods.refit.survey import Pruned, survey
from scionet.methods.widths.output_distance import OutputDistance
from scionet.network.passes.moments import Moments
from scionet.network.passes.suspended import BRANCH, Stop, suspended_passes
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Site
from scionet.selection.greedy import Selection, shortened


@dataclass(frozen=True, eq=False)
class AllocatedWidths:
    """The number of units that each site keeps, and what was measured to decide it.

    Attributes:
        kept: The most units that each site keeps.
        paths: Full paths of sites that are decided before the walk, if all selections are beginnings of one path.
        predicted: The distance of the output that the sensitivities predict, and the measure of that distance.
        notes: Sentences for the plan's status.
    """

    kept: Mapping[str, int]
    paths: Mapping[str, Selection] = field(default_factory=dict)
    predicted: tuple[float, OutputDistance] | None = None
    notes: tuple[str, ...] = ()


class Walk:
    """One walk, and what has been decided so far."""

    def __init__(self, run: MethodRun, widths: AllocatedWidths, before: "Walk | None" = None) -> None:
        """Prepare a walk.

        Args:
            run: The method at work: its ranker, its fitting, its settings.
            widths: The number of units that each site keeps.
            before: The previous pass.
        """
        self.run, self.widths, self.before = run, widths, before
        self.ranker, self.fitting, self.network, self.sites = run.ranker, run.fitting, run.network, run.sites
        self.calibration: Calibration = run.calibration
        self.choices: dict[str, Choice] = {}
        self.gates: dict[str, Tensor] = {}
        self.tensors: dict[str, Tensor] = {}
        self.shifts: dict[str, Tensor | None] = {}
        self.effective: dict[str, Tensor] = {}
        self.certified: dict[str, float] = {}
        self.pending: Moments | None = None
        self.constants = BranchConstants(self.network, self.fitting.refit)
        self.ended: list[str] = []

    def walk(self) -> "Walk":
        """Decide all sites."""
        with closing(self.views()) as views:
            for view in views:
                rng = self.run.generator_of(view.site)
                self.settle_on(view.site, self.ranker.rank(view, self.widths.kept[view.site.name], rng))
        return self

    def again(self) -> "Walk":
        """Make another pass at the same widths. Each site is selected given the selections of this pass elsewhere."""
        return Walk(self.run, replace(self.widths, paths={}), before=self).walk()

    @property
    def kept(self) -> dict[str, int]:
        """Number of units that each site keeps."""
        return {name: len(choice.kept) for name, choice in self.choices.items()}

    @property
    def masked(self) -> dict[str, Tensor]:
        """Tensors of the masked network."""
        return self.network.masked(self.gates, self.tensors)

    def views(self) -> Generator[SiteView]:
        """Yield each undecided site as it is known when its turn comes; it must be decided before the next one."""
        yield from self.early_views()
        if self.fitting.refit is not None or self.ranker.uses_moments:
            yield from self.views_at_consumers()
        else:
            yield from self.remaining_views()

    def settle_on(self, site: Site, selection: Selection) -> None:
        """Record a selection as the site's choice."""
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
        """The gates of this pass; for undecided sites, those of the previous pass."""
        return {**({} if self.before is None else self.before.gates), **self.gates}

    def view(self, site: Site, weight: str | None = None) -> SiteView:
        """The current view of a site, with the moments of its consumer `weight` if the walk has reached it."""
        bare = SiteView(site, self.network, self.calibration, (), self.gates, self.tensors)
        if weight is None or self.pending is None:
            return bare
        terms = (self.fitting.term(site, weight, self.pending, self.known),)
        return replace(bare, terms=terms, repaired_by=self.fitting.repaired_by(site, {weight: self.pending}))

    def early_views(self) -> Iterator[SiteView]:
        """Yield the sites that have to be decided before the walk, such as residual streams."""
        early = [name for name, site in self.sites.items() if not self.fitting.waits(site)]
        if self.ranker.uses_labels or not early:
            return
        if not self.ranker.uses_moments:
            yield from (self.view(self.sites[name]) for name in early)
            return
        for name, path in self.widths.paths.items():
            self.settle_on(self.sites[name], shortened(path, self.widths.kept[name]))
        if rest := [name for name in early if name not in self.choices]:
            pruned = None if self.before is None else Pruned(self.before.gates, self.before.answer)
            for view, _ in survey(self.run, self.run.surveyed, rest, pruned):
                yield replace(view, gates=self.gates, calibration=self.calibration)

    def remaining_views(self) -> Iterator[SiteView]:
        """Yield all other sites, without a walk."""
        for number, (name, site) in enumerate(self.sites.items()):
            if name not in self.choices:
                self.run.progress("select", number, len(self.sites))
                yield self.view(site)

    def views_at_consumers(self) -> Iterator[SiteView]:
        """Run the dense and the pruned network from consumer to consumer, and yield the sites that decide there.

        Each consumer is refitted once the sites in front of it are decided; both networks go on with its new weights.
        """
        calls = sum(consumer.calls for consumer in self.sites.consumers.values())
        sampler, seen, done = Sampler(self.run, self.calibration, "positions"), Counter[str](), 0

        def observe(present: tuple[Stop, ...]) -> None:
            weight = present[0].weight
            if weight in self.network.dropped:
                self.constants.observe(*present)
            elif self.wants_moments(weight):
                moments = self.fitting.moments(present[0], present[1], sampler.sample(weight, 0, seen[weight]))
                seen[weight] += 1
                self.pending = moments if self.pending is None else self.pending + moments

        passes = (self.network, self.calibration.inputs, self.fitting.stops, 2, self.run.memory_bytes)
        with suspended_passes(*passes) as suspended:
            while (weight := suspended.step(self.answer, observe)) is not None:
                if weight in self.network.dropped:
                    self.tensors.update(self.constants.refitted(weight))
                    self.ended.append(weight)
                    continue
                self.pending = None if self.pending is None else self.pending.over_processes()
                undecided = (site for site in self.fed_by(weight) if site.name not in self.choices)
                yield from (self.view(site, weight) for site in undecided)
                self.settle(weight)
                self.pending = None
                done += 1
                self.run.progress("select", done, calls)

    def wants_moments(self, weight: str) -> bool:
        """Whether a consumer is refitted, or its inputs decide a site."""
        chooses = self.ranker.uses_moments and any(s.name not in self.choices for s in self.fed_by(weight))
        return self.fitting.called_once(weight) and (self.fitting.refit is not None or chooses)

    def fed_by(self, weight: str) -> list[Site]:
        """The sites whose units are inputs of a consumer."""
        return [site for site in self.sites.values() if weight in site.consumers]

    def settle(self, weight: str) -> None:
        """Refit a consumer that all batches have reached and whose sites are decided, and use its new weights."""
        gates = {site.name: self.gates[site.name] for site in self.fed_by(weight)}
        if self.fitting.refit is not None and self.pending is not None and self.touched():
            fitted = self.fitting.fitted(weight, self.pending, gates)
            self.tensors.update(fitted.tensors)
            self.shifts[weight] = fitted.shift
        self.effective[weight] = self.network.masked(gates, self.tensors)[weight]

    def touched(self) -> bool:
        """Whether anything was removed or re-weighted so far. If not, the dense weights are optimal."""
        return bool(self.ended) or any(bool((gate != 1).any()) for gate in self.gates.values())

    def answer(self, present: tuple[Stop, ...]) -> list[Tensor]:
        """Outputs of the consumer that all batches have reached, of the dense and the pruned network."""
        dense, pruned = present
        if dense.operation == BRANCH:
            return [dense.output, self.constants.output_for(dense)]
        out = pruned.run(self.effective[pruned.weight])
        shift = self.shifts.get(pruned.weight)
        if shift is not None:
            out.add_(shift.view([-1 if d == 1 else 1 for d in range(out.ndim)]))
        return [dense.output, out]

    def plan(self, name: str, settings: Mapping[str, object], seed: int) -> Plan:
        """Return the plan of this walk.

        Args:
            name: Name of the method.
            settings: Its settings as JSON.
            seed: Root of all randomness.
        """
        notes = [_summary(self.choices, self.certified), *self.widths.notes]
        return Plan(
            choices=tuple(self.choices[name] for name in self.sites if name in self.choices),
            tensors={name: tensor for name, tensor in self.tensors.items() if name in self.network.state},
            method=name,
            settings=settings,
            seed=seed,
            dense_hash=self.sites.dense_hash,
            status="; ".join(notes),
            dropped=self.constants.by_name,
        )


def _summary(choices: Mapping[str, Choice], certified: Mapping[str, float]) -> str:
    """Summarise the statuses of all sites, and their certificates."""
    counts: Counter[str] = Counter(choice.status for choice in choices.values())
    summary = "; ".join(f"{count} sites: {text}" for text, count in counts.items())
    if not certified:
        return summary
    least = min(certified, key=lambda name: certified[name])
    return (
        f"{summary}; certified share of the best possible reduction of the error: median "
        f"{np.median([*certified.values()]):.1%}, least {certified[least]:.1%} (site {least})"
    )
