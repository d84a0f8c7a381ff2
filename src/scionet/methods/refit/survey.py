"""Surveys: one pass that yields the problem of every site as soon as all its consumers have been reached."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from scionet.budget.costs import CostModel
from scionet.choices.settings import Settings
from scionet.methods.calibration.calibration import Calibration, read
from scionet.methods.contract import Ranker, SiteView
from scionet.methods.method_run import MethodRun, Sampler
from scionet.methods.problem import Problem
from scionet.methods.refit.refit import Fitting
from scionet.network.calling import Batch
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.passes.moments import Moments
from scionet.network.passes.suspended import Stop, suspended_passes
from scionet.progress import silent
from scionet.seeds import seeded


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned network that runs in parallel with the dense one.

    Attributes:
        gates: Its gates, shape ``(width,)`` for each site.
        answer: The outputs of the dense and of the pruned network at a consumer that both have reached.
    """

    gates: Mapping[str, Tensor]
    answer: Callable[[tuple[Stop, ...]], Sequence[Tensor]]


def survey(
    run: MethodRun, calibration: Calibration, names: Iterable[str], pruned: Pruned | None = None
) -> Iterator[tuple[SiteView, dict[str, Moments]]]:
    """Iterate over the named sites, each with one term per consumer and their moments.

    Without `pruned`, moments are measured in the dense network. With `pruned`, each site is measured in the network in
    which all other sites are pruned. Its inputs are those of the pruned network, its targets those of the dense one,
    and removed outputs do not count.

    Moments are dropped as soon as no further site needs them, so that memory is bounded by the widest site.

    Args:
        run: The method at work.
        calibration: The examples.
        names: The sites.
        pruned: The pruned network, if there is one.
    """
    sites, fitting = run.sites, run.fitting
    waiting = [sites[name] for name in names]
    wanted = {consumer for site in waiting for consumer in site.consumers}
    stops = dict.fromkeys(wanted) if pruned is None else fitting.stops
    sampler = Sampler(run, calibration, "survey")
    found: dict[str, Moments] = {}
    visits: Counter[str] = Counter()
    seen: Counter[tuple[str, int]] = Counter()

    def observe(present: tuple[Stop, ...]) -> None:
        weight = present[0].weight
        if weight not in wanted:
            return
        visit = weight, visits[weight]
        sample = sampler.sample(*visit, seen[visit])
        moments = (
            fitting.dense_moments(present[0], sample)
            if pruned is None
            else fitting.moments(present[0], present[1], sample)
        )
        seen[visit] += 1
        found[weight] = found[weight] + moments if weight in found else moments

    answer = _dense if pruned is None else pruned.answer
    gates = {} if pruned is None else pruned.gates
    count = 1 if pruned is None else 2
    with suspended_passes(run.network, calibration.inputs, stops, count, run.memory_bytes) as passes:
        while (weight := passes.step(answer, observe)) is not None:
            visits[weight] += 1
            run.progress("survey", len(visits), len(stops))
            if weight in wanted and visits[weight] == sites.consumers[weight].calls:
                found[weight] = found[weight].over_processes()
            complete = {c for c in found if visits[c] == sites.consumers[c].calls}
            for site in [site for site in waiting if complete.issuperset(site.consumers)]:
                terms = tuple(fitting.term(site, consumer, found[consumer], gates) for consumer in site.consumers)
                moments = {consumer: found[consumer] for consumer in site.consumers}
                repaired_by = fitting.repaired_by(site, moments)
                yield SiteView(site, run.network, calibration, terms, repaired_by=repaired_by), moments
                waiting.remove(site)
            needed = {consumer for site in waiting for consumer in site.consumers}
            found = {consumer: moments for consumer, moments in found.items() if consumer in needed}


def surveying(
    model: nn.Module, data: Iterable[Any], example_inputs: Batch, ranker: Ranker, settings: Settings, seed: int
) -> MethodRun:
    """Prepare a survey without a budget: the sites of a network and its calibration examples.

    Args:
        model: The dense network.
        data: Batches like `example_inputs`; what they hold beyond that is ignored.
        example_inputs: What the model is called on.
        ranker: Orders the units of a site.
        settings: Refit, limits and resources.
        seed: Root of all randomness.

    Raises:
        PruneError: If nothing can be pruned, or the data do not fit.
    """
    sites = discover(model, example_inputs, settings.limits.ignored_layers)
    network, resources = Network(model, sites), settings.resources
    calibration = read(
        network,
        data,
        example_inputs,
        labels=ranker.uses_labels,
        batch_size=resources.batch_size,
        memory_bytes=resources.memory_bytes,
    )
    problem = Problem(network, calibration, CostModel(sites))
    return MethodRun(
        problem, ranker, Fitting(network, settings.refit, resources.positions), settings, seeded(seed), silent
    )


def _dense(present: tuple[Stop, ...]) -> Sequence[Tensor]:
    """The outputs of the dense network."""
    return [present[0].output]
