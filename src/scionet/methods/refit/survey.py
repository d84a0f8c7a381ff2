"""One pass that gives each site's problem, dense or pruned, as soon as all its consumers were seen."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scionet.methods.contract import SiteView
from scionet.methods.refit.refit import Fitting
from scionet.network.multiprocess import overall_index
from scionet.network.passes.moments import Moments
from scionet.network.passes.suspended import Stop, suspended_passes
from scionet.progress import Progress
from scionet.seeds import Generators


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned network beside the dense one.

    Attributes:
        gates: Its gates, shape ``(width,)`` for each site.
        answer: What the dense and the pruned network give at a consumer at which both are.
    """

    gates: Mapping[str, Tensor]
    answer: Callable[[tuple[Stop, ...]], Sequence[Tensor]]


def survey(
    fitting: Fitting,
    batches: Iterable[Any],
    names: Iterable[str],
    generators: Generators,
    progress: Progress,
    pruned: Pruned | None = None,
) -> Iterator[tuple[SiteView, dict[str, Moments]]]:
    """The named sites, each with one term per consumer, and their moments.

    They are taken as they stand in the dense network; with `pruned` each as it stands there, all others pruned: inputs
    are those of the pruned network, targets the dense one's, and outputs that were cut do not count.

    Moments are dropped as soon as every site that needs them was given, so memory is bounded by the widest site (by
    all consumers of a residual stream, where there is one).
    """
    sites, memory_bytes = fitting.sites, fitting.settings.memory_gib * 2**30
    waiting = [sites[name] for name in names]
    wanted = {consumer for site in waiting for consumer in site.consumers}
    stops = dict.fromkeys(wanted) if pruned is None else fitting.stops
    found: dict[str, Moments] = {}
    visits: Counter[str] = Counter()
    taken: Counter[tuple[str, int]] = Counter()

    def observe(present: tuple[Stop, ...]) -> None:
        weight = present[0].weight
        if weight not in wanted:
            return
        visit = weight, visits[weight]
        rng = generators("survey", *visit, overall_index(taken[visit]))
        moments = (
            fitting.dense_moments(present[0], rng) if pruned is None else fitting.moments(present[0], present[1], rng)
        )
        taken[visit] += 1
        found[weight] = found[weight] + moments if weight in found else moments

    answer = _dense if pruned is None else pruned.answer
    gates = {} if pruned is None else pruned.gates
    with suspended_passes(fitting.model, batches, stops, 1 if pruned is None else 2, memory_bytes) as passes:
        while (weight := passes.step(answer, observe)) is not None:
            visits[weight] += 1
            progress("survey", len(visits), len(stops))
            if weight in wanted and visits[weight] == sites.consumers[weight].calls:
                found[weight] = found[weight].over_processes()
            complete = {c for c in found if visits[c] == sites.consumers[c].calls}
            for site in [site for site in waiting if complete.issuperset(site.consumers)]:
                terms = tuple(fitting.term(site, consumer, found[consumer], gates) for consumer in site.consumers)
                moments = {consumer: found[consumer] for consumer in site.consumers}
                repair = fitting.repair(site, moments)
                yield SiteView(site, sites, fitting.model, terms, {}, {}, batches, repair), moments
                waiting.remove(site)
            needed = {consumer for site in waiting for consumer in site.consumers}
            found = {consumer: moments for consumer, moments in found.items() if consumer in needed}


def _dense(present: tuple[Stop, ...]) -> Sequence[Tensor]:
    """What the dense network gives."""
    return [present[0].output]
