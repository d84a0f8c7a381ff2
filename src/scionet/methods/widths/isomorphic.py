"""Groups of sites with the same role, within which scores of units can be compared."""

from typing import Any

from torch import nn

from scionet.network.sites import Site, Sites


def alike(model: nn.Module, sites: Sites) -> list[list[str]]:
    """Group the names of sites by role, in the order of the sites.

    Two sites have the same role if the same modules, tensors and dimensions shrink with their units, each the same
    number of times. Widths make no difference.

    Source: Fang et al., *Isomorphic Pruning for Vision Models*, ECCV 2024, where graphs of layers are compared. Differs
    in that the order of the modules makes no difference.
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
