"""A slow and obvious oracle for dropped branches: hooks that overwrite what the last module of each returns."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch
from support.masking import Kept, masked, plan_of
from torch import Tensor, nn

from scionet.network.plan import Plan
from scionet.network.sites import Sites

Dropped = Mapping[str, Tensor | None]


@contextmanager
def masked_and_dropped(model: nn.Module, sites: Sites, kept: Kept, dropped: Dropped) -> Iterator[None]:
    """Inside, consumers receive zeros for removed units, and each dropped branch ends in its constant."""
    with ExitStack() as stack:
        stack.enter_context(masked(model, sites, kept))
        for name, constant in dropped.items():
            stack.enter_context(_constant(model, sites, name, constant))
        yield


@contextmanager
def _constant(model: nn.Module, sites: Sites, name: str, constant: Tensor | None) -> Iterator[None]:
    branch = sites.branches[name]

    def after(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
        channels_last = torch.zeros_like(out).movedim(branch.dim, -1)
        return (channels_last if constant is None else channels_last + constant).movedim(-1, branch.dim)

    hook = model.get_submodule(branch.output).register_forward_hook(after)
    yield
    hook.remove()


def dropping_plan(sites: Sites, kept: Kept, dropped: Dropped) -> Plan:
    """The plan that keeps these units and drops these branches; sites inside those have no choice."""
    inside = {site for name in dropped for site in sites.branches[name].sites}
    left = {name: units for name, units in kept.items() if name not in inside}
    return replace(plan_of(sites, left), dropped=dict(dropped))


def random_drop(sites: Sites, rng: np.random.Generator, density: float = 0.5) -> dict[str, Tensor | None]:
    """A random subset of the branches, half of them with constants."""
    found: dict[str, Tensor | None] = {}
    for name, branch in sites.branches.items():
        if rng.random() < density and not any(branch.overlaps(sites.branches[other]) for other in found):
            with_constant = rng.random() < 0.5
            found[name] = torch.from_numpy(rng.standard_normal(branch.channels)) if with_constant else None
    return found
