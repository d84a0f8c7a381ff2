"""One pass through the dense network that gives each site's problem as soon as all its consumers were seen."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from torch import nn

from scionet.methods.contract import Progress, SiteView
from scionet.methods.problems import kept_channels, make_term, norm_scale, shift_target
from scionet.network.lockstep import Stop, lockstep
from scionet.network.moments import Moments, input_rows, output_rows, sample_positions
from scionet.network.running import state_of
from scionet.network.sites import Site, Sites
from scionet.settings import SweepSettings


def survey(
    model: nn.Module,
    batches: Iterable,
    sites: Sites,
    names: Iterable[str],
    settings: SweepSettings,
    rng: np.random.Generator,
    progress: Progress,
) -> Iterator[SiteView]:
    """The named sites as they stand in the dense network, each with one term per consumer.

    Moments are dropped as soon as every site that needs them was given, so memory is bounded by the widest site (by
    all consumers of a residual stream, where there is one).
    """
    waiting = [sites[name] for name in names]
    stops = {consumer: None for site in waiting for consumer in site.consumers}
    found: dict[str, Moments] = {}
    visits: Counter[str] = Counter()

    def observe(present: tuple[Stop, ...]) -> None:
        moments = dense_moments(present[0], settings.positions, rng)
        weight = present[0].weight
        found[weight] = found[weight] + moments if weight in found else moments

    with lockstep(model, batches, stops, 1, settings.memory_gib * 2**30) as march:
        while (weight := march.step(lambda present: [present[0].output], observe)) is not None:
            visits[weight] += 1
            progress("survey", len(visits), len(stops))
            complete = {c for c in found if visits[c] == sites.consumers[c].calls}
            for site in [site for site in waiting if complete.issuperset(site.consumers)]:
                yield _view(model, batches, sites, site, found, settings)
                waiting.remove(site)
            needed = {consumer for site in waiting for consumer in site.consumers}
            found = {consumer: moments for consumer, moments in found.items() if consumer in needed}


def dense_moments(stop: Stop, limit: int, rng: np.random.Generator) -> Moments:
    """Moments of one batch at one consumer: its inputs, and what it makes of them without its bias."""
    positions = sample_positions(stop, stop.output.shape, limit, rng)
    return Moments.of(input_rows(stop, positions), output_rows(stop.output_without_bias, positions))


def _view(
    model: nn.Module,
    batches: Iterable,
    sites: Sites,
    site: Site,
    found: Mapping[str, Moments],
    settings: SweepSettings,
) -> SiteView:
    state = state_of(model)
    terms = tuple(
        make_term(
            site,
            consumer,
            state[consumer],
            found[consumer],
            kept_channels(sites, consumer, {}, without=site.name),
            norm_scale(model, sites.consumers[consumer]),
            centred=settings.refit and shift_target(sites.consumers[consumer], sites.shapes) is not None,
        )
        for consumer in site.consumers
    )
    return SiteView(site, sites, model, terms, {}, {}, batches)
