"""The sites of a network as problems of local imitation."""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from scionet.analysis.rates.imitation import SiteImitation, imitated
from scionet.choices.methods import Forward
from scionet.choices.repair import Refit
from scionet.choices.settings import Settings
from scionet.errors import InvalidSetting
from scionet.methods.greedy.forward import ForwardRanker
from scionet.methods.refit.survey import survey, surveying
from scionet.network.calling import Batch
from scionet.network.guard import guarded
from scionet.network.sites import Sites


@guarded
def imitations(
    model: nn.Module,
    batches: Iterable[Any],
    example_inputs: Batch,
    names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    largest: int = 256,
    count: int = 3,
) -> list[SiteImitation]:
    """Measure local imitation at sites of a network.

    Args:
        model: The network; not modified.
        batches: Inputs, as many as the second moments are to be measured on.
        example_inputs: One batch like them.
        names: Names or patterns of sites; by default a few, from the first to the last.
        seed: Seed of sampled positions and of random supports.
        largest: By default, sites with more units are left out.
        count: Number of sites that are measured by default.

    Raises:
        InvalidSetting: If there is no such site.
        PruneError: If nothing can be pruned, or the data do not fit.
    """
    settings = Settings(repair=(Refit(shrinkage=0.0),))
    run = surveying(model, batches, example_inputs, ForwardRanker(Forward(), settings), settings, seed)
    chosen = _spread(run.sites, largest, count) if names is None else _named(run.sites, names)
    found = {view.site.name: view.terms for view, _ in survey(run, run.surveyed, chosen)}
    return [imitated(name, found[name], seed) for name in chosen]


def _spread(sites: Sites, largest: int, count: int) -> list[str]:
    """A few sites, from the first to the last.

    Raises:
        InvalidSetting: If all have too many or too few units.
    """
    fitting = [name for name, site in sites.items() if 4 <= site.width <= largest]
    if not fitting:
        raise InvalidSetting(f"no site has 4 to {largest} units; name one with --sites, such as {next(iter(sites))!r}")
    places = _evenly(len(fitting), min(count, len(fitting)))
    return [fitting[place] for place in places]


def _evenly(size: int, count: int) -> Iterator[int]:
    return (round(place * (size - 1) / max(count - 1, 1)) for place in range(count))


def _named(sites: Sites, patterns: Sequence[str]) -> list[str]:
    """Sites that match, in the order of the network.

    Raises:
        InvalidSetting: If a pattern matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in sites):
            raise InvalidSetting(f"no site is called {pattern!r}; the network has {', '.join(list(sites)[:8])}")
    return [name for name in sites if any(fnmatchcase(name, pattern) for pattern in patterns)]
