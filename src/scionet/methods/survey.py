"""One pass through the dense network that gives each site's problem as soon as all its consumers were seen."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from scionet.methods.contract import SiteView
from scionet.methods.fitting import Fitting
from scionet.network.lockstep import Stop, lockstep
from scionet.network.moments import Moments
from scionet.network.processes import overall_index
from scionet.progress import Progress
from scionet.seeds import Draw


def survey(
    fitting: Fitting, batches: Iterable[Any], names: Iterable[str], draw: Draw, progress: Progress
) -> Iterator[tuple[SiteView, dict[str, Moments]]]:
    """The named sites as they stand in the dense network, each with one term per consumer, and their moments.

    Moments are dropped as soon as every site that needs them was given, so memory is bounded by the widest site (by
    all consumers of a residual stream, where there is one).
    """
    sites, memory_bytes = fitting.sites, fitting.settings.memory_gib * 2**30
    waiting = [sites[name] for name in names]
    stops = {consumer: None for site in waiting for consumer in site.consumers}
    found: dict[str, Moments] = {}
    visits: Counter[str] = Counter()
    taken: Counter[tuple[str, int]] = Counter()

    def observe(present: tuple[Stop, ...]) -> None:
        weight = present[0].weight
        visit = weight, visits[weight]
        moments = fitting.dense_moments(present[0], draw("survey", *visit, overall_index(taken[visit])))
        taken[visit] += 1
        found[weight] = found[weight] + moments if weight in found else moments

    with lockstep(fitting.model, batches, stops, 1, memory_bytes) as march:
        while (weight := march.step(lambda present: [present[0].output], observe)) is not None:
            visits[weight] += 1
            progress("survey", len(visits), len(stops))
            if visits[weight] == sites.consumers[weight].calls:
                found[weight] = found[weight].over_processes()
            complete = {c for c in found if visits[c] == sites.consumers[c].calls}
            for site in [site for site in waiting if complete.issuperset(site.consumers)]:
                terms = tuple(fitting.term(site, consumer, found[consumer], {}) for consumer in site.consumers)
                moments = {consumer: found[consumer] for consumer in site.consumers}
                repair = fitting.repair(site, moments)
                yield SiteView(site, sites, fitting.model, terms, {}, {}, batches, repair), moments
                waiting.remove(site)
            needed = {consumer for site in waiting for consumer in site.consumers}
            found = {consumer: moments for consumer, moments in found.items() if consumer in needed}
