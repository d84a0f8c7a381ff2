"""Provisional cuts: sites and branches are kept only if a copy of the network that is cut there computes the same."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from scionet.network.branches import Branch
from scionet.network.calling import Batch
from scionet.network.network import Network
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Refusal, Sites
from scionet.network.surgery.cut import copied, cut
from scionet.network.surgery.verification import verify

_OPERATION = "provisional cut"
"""The operation that refusals name."""
_NEGLIGIBLE = 1e-3
"""A parameter without larger entries hides the branch that it scales: a BatchNorm or layer scale close to zero."""


def verified_sites(network: Network, batch: Batch) -> Sites:
    """The sites that can be cut all together; the others are refused with the error that their cut raised.

    Args:
        network: The network, with its sites as the traced pass found them.
        batch: Inputs on which cut and masked network are compared.

    Raises:
        UnsupportedModel: If the model cannot be copied.
    """
    sites, audible = network.sites, _without_negligible_parameters(network)
    # Sites of one kind (heads, say) tend to fail together. Next to one another, they cost the bisection fewer cuts.
    names = sorted(sites, key=lambda name: sites[name].unit)
    failed = _failing(names, lambda some: _cut_error(audible, provisional_plan(sites, some), batch))
    left = {name: site for name, site in sites.items() if name not in failed}
    read = {weight for site in left.values() for weight in site.consumers}
    return replace(
        sites,
        sites=left,
        consumers={weight: consumer for weight, consumer in sites.consumers.items() if weight in read},
        refused=(*sites.refused, *(_refusal(name, error) for name, error in failed.items())),
    )


def verified_branches(network: Network, batch: Batch, ignored: Collection[str] = ()) -> Sites:
    """The sites with the branches that can be dropped all together, but for those inside others; the rest is refused.

    Args:
        network: The network, with its sites.
        batch: Inputs on which cut and masked network are compared.
        ignored: Names of the tensors that stay. A branch with one of them is refused.

    Raises:
        UnsupportedModel: If the model cannot be copied.
    """
    sites = network.sites
    branches = {name: _within(branch, sites) for name, branch in sites.branches.items()}
    refused = {
        name: Refusal(name, "ignored_layers", name, "remove it from ignored_layers to drop the branch")
        for name, branch in branches.items()
        if not set(ignored).isdisjoint(branch.tensors)
    }
    waiting = [name for name in branches if name not in refused]
    while waiting:
        apart: list[str] = []
        for name in waiting:
            if not any(branches[name].overlaps(branches[other]) for other in apart):
                apart.append(name)
        failed = _failing(apart, lambda some: _cut_error(network, _plan_without(branches, some), batch))
        refused |= {name: _refusal(name, error) for name, error in failed.items()}
        waiting = [name for name in waiting if name not in apart]
    left = {name: branch for name, branch in branches.items() if name not in refused}
    return replace(sites, branches=left, refused_branches=(*sites.refused_branches, *refused.values()))


def _within(branch: Branch, sites: Sites) -> Branch:
    """A branch, with those of its sites that can be pruned."""
    streams = {name: index for name, index in branch.streams.items() if name in sites}
    return replace(branch, sites=tuple(name for name in branch.sites if name in sites), streams=streams)


def _plan_without(branches: Mapping[str, Branch], names: Iterable[str]) -> Plan:
    """The plan that drops some branches, with random constants."""
    generator = torch.Generator().manual_seed(0)
    return Plan((), dropped={name: torch.randn(branches[name].channels, generator=generator) for name in names})


def _failing(names: Sequence[str], error_of: Callable[[list[str]], str | None]) -> dict[str, str]:
    """Those of some names that fail together with the others, and how, found by bisection."""
    failed: dict[str, str] = {}

    def extended(kept: list[str], more: Sequence[str]) -> list[str]:
        """`kept`, and those of `more` that can be cut together with them."""
        error = error_of([*kept, *more]) if more else None
        if error is None:
            return [*kept, *more]
        if len(more) == 1:
            failed[more[0]] = error
            return kept
        middle = len(more) // 2
        return extended(extended(kept, more[:middle]), more[middle:])

    extended([], names)
    return failed


def _without_negligible_parameters(network: Network) -> Network:
    """The network, or a copy with random values for negligible parameters, so that every branch affects the output.

    Raises:
        UnsupportedModel: If the model cannot be copied.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        random = {
            id(parameter): nn.Parameter((0.5 + torch.rand(parameter.shape, generator=generator)).to(parameter))
            for parameter in network.model.parameters()
            if parameter.is_floating_point() and parameter.numel() and _largest_entry(parameter) < _NEGLIGIBLE
        }
    return Network(copied(network.model, random), network.sites) if random else network


def _largest_entry(tensor: Tensor) -> float:
    """The largest absolute value."""
    low, high = torch.aminmax(tensor)
    return max(-float(low), float(high))


def _cut_error(network: Network, plan: Plan, batch: Batch) -> str | None:
    """The error raised by a provisional cut and comparing; None without one."""
    model, sites = network.model, network.sites
    try:
        verify(model, plan, sites, cut(model, plan, sites), batch)
    except Exception as error:  # the forward of a user's module can raise anything; here it means: cannot be pruned
        # Only the text is kept: the traceback of the error would keep the whole copy in memory.
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return None


def provisional_plan(sites: Sites, names: Iterable[str]) -> Plan:
    """The plan that removes about a third of the units of the named sites, others of each."""
    number = {name: number for number, name in enumerate(sites)}
    subsets = [(name, sites[name].width, uneven_subset(sites[name].width, number[name])) for name in names]
    return Plan(tuple(Choice(name, width, kept, (1.0,) * len(kept)) for name, width, kept in subsets))


def uneven_subset(width: int, number: int = 0) -> tuple[int, ...]:
    """About two thirds of the units: all but every second one of the first two thirds.

    The removed units are distributed unevenly over halves and over even and odd units. So a forward that divides or
    shuffles channels by position fails, while a random choice could leave equal parts by chance.

    Args:
        width: Number of units.
        number: Subsets of consecutive numbers differ, so that sites that would have to keep the same units fail.
    """
    first = number % 2
    removed = set(range(first, max(first + 1, 2 * width // 3 - number % 3), 2))
    return tuple(unit for unit in range(width) if unit not in removed)


def _refusal(site: str, error: str) -> Refusal:
    advice = (
        f"a {_OPERATION} failed ({error[:200]}); if a size is written into a forward, take it from the tensor's shape"
    )
    return Refusal(site, _OPERATION, site, advice)
