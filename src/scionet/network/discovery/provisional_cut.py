"""The proof of a site: a copy of the network is really cut there, runs, and equals the masked one."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from scionet.network.calling import Batch
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Refusal, Sites
from scionet.network.surgery.cut import copied, cut, verify

_SILENT = 1e-3
"""Largest entry of a parameter that hides what it multiplies: a BatchNorm that starts at zero, a layer scale."""


def proved(model: nn.Module, sites: Sites, batch: Batch) -> Sites:
    """The sites that survive a trial cut, all together; the others as refusals with the error they gave."""
    failed: dict[str, str] = {}
    lively = _without_silent_parameters(model)

    def grown(kept: list[str], names: list[str]) -> list[str]:
        """`kept`, and those of `names` that can be cut along with them."""
        error = _trial_error(lively, sites, [*kept, *names], batch) if names else None
        if error is None:
            return [*kept, *names]
        if len(names) == 1:
            failed[names[0]] = error
            return kept
        middle = len(names) // 2
        return grown(grown(kept, names[:middle]), names[middle:])

    grown([], sorted(sites, key=lambda name: sites[name].unit))  # what fails alike is bisected at once
    left = {name: site for name, site in sites.items() if name not in failed}
    read = {weight for site in left.values() for weight in site.consumers}
    return replace(
        sites,
        sites=left,
        consumers={weight: consumer for weight, consumer in sites.consumers.items() if weight in read},
        refused=(*sites.refused, *(_refusal(name, error) for name, error in failed.items())),
    )


def _without_silent_parameters(model: nn.Module) -> nn.Module:
    """The model, or a copy in which no branch is switched off by tiny parameters, so that a wrong cut of it shows.

    Raises:
        UnsupportedModel: If the model cannot be copied.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        loud = {
            id(parameter): nn.Parameter((0.5 + torch.rand(parameter.shape, generator=generator)).to(parameter))
            for parameter in model.parameters()
            if parameter.is_floating_point() and parameter.numel() and _largest(parameter) < _SILENT
        }
    return copied(model, loud) if loud else model


def _largest(tensor: Tensor) -> float:
    low, high = torch.aminmax(tensor)
    return max(-float(low), float(high))


def _trial_error(model: nn.Module, sites: Sites, names: list[str], batch: Batch) -> str | None:
    """What went wrong in cutting about a third of the units of the named sites, if anything did."""
    choices = []
    for name in names:
        kept = lopsided(sites[name].width)
        choices.append(Choice(name, sites[name].width, kept, (1.0,) * len(kept)))
    plan = Plan(tuple(choices))
    try:
        verify(model, plan, sites, cut(model, plan, sites), batch)
    except Exception as error:  # whatever a stranger's forward raises means: not prunable here
        return next(
            iter(str(error).strip().splitlines()), type(error).__name__
        )  # the error itself holds the whole copy
    return None


def lopsided(width: int) -> tuple[int, ...]:
    """Two thirds of the units, without every second one of the first two thirds.

    What goes is spread unevenly over halves and over even and odd units: a forward that divides or shuffles channels by
    position then fails, where a random choice might leave equal parts by chance.
    """
    gone = set(range(0, max(1, 2 * width // 3), 2))
    return tuple(unit for unit in range(width) if unit not in gone)


def _refusal(site: str, error: str) -> Refusal:
    advice = f"a trial cut failed ({error[:200]}); "
    return Refusal(
        site, "trial cut", site, advice + "a size may be written into a forward: take it from the tensor's shape"
    )
