"""Which sites of a network play the same role, so that scores of their units may be compared."""

from typing import Any

from torch import nn

from scionet.network.sites import Site, Sites


def alike(model: nn.Module, sites: Sites) -> list[list[str]]:
    """Names of sites in groups of equal role, in the order of the sites.

    A role is what units go through: the kinds of modules, the tensors and the dimensions that shrink with them, each
    as often as there is one. Widths make no difference.

    Source: Fang et al., *Isomorphic Pruning for Vision Models*, ECCV 2024, where graphs of layers are compared. Differs
    in that the order of what units go through makes no difference.
    """
    groups: dict[Any, list[str]] = {}
    for name, site in sites.items():
        groups.setdefault(_role(model, site), []).append(name)
    return [*groups.values()]


def _role(model: nn.Module, site: Site) -> tuple[str, ...]:
    parts = []
    for slot in site.slots:
        owner, _, key = slot.tensor.rpartition(".")
        kind = type(model.get_submodule(owner))
        parts.append(f"{kind.__module__}.{kind.__qualname__}.{key}[{slot.dim}]")
    return site.unit, *sorted(parts)
