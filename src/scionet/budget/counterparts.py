"""Widths of a narrower network of the same family, as widths of the sites of a wider one."""

from collections import defaultdict
from collections.abc import Mapping

from torch import nn

from scionet.choices.widths import Widths
from scionet.errors import InvalidSetting
from scionet.network.sites import Sites

Place = tuple[str, int]
"""A dimension of a tensor."""


def widths_of_counterpart(sites: Sites, counterpart: nn.Module) -> Widths:
    """The widths at which a network has the shapes of a narrower one, whose tensors have the same names.

    Predefined architectures are such narrower networks: the widths of ``scionet.models.predefined:vgg16_a`` can be
    given to any trained VGG-16. No weight is read.

    Args:
        sites: The sites of the wider network.
        counterpart: The narrower network.

    Returns:
        Widths of all sites, for `scionet.prune`.

    Raises:
        InvalidSetting: If removing units of the sites does not lead to the shapes of the counterpart; the text names a
            tensor.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in counterpart.state_dict().items()}
    owners = _owners(sites)
    units = {name: _width(sites, name, owners, shapes) for name in sites}
    _refuse_other_shapes(_shapes_at(sites, units), shapes)
    return Widths(units)


def _width(sites: Sites, name: str, owners: Mapping[Place, set[str]], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Units of a site in a network of these shapes, from a dimension that has units of no other site.

    Raises:
        InvalidSetting: If there is no such dimension, or its size in the other network is of no width.
    """
    site = sites[name]
    slot = next((slot for slot in site.slots if owners[slot.tensor, slot.dim] == {name}), None)
    if slot is None or slot.tensor not in shapes or len(shapes[slot.tensor]) <= slot.dim:
        raise InvalidSetting(_other_family(slot.tensor if slot else site.producers[0], "no comparable tensor"))
    removed, rest = divmod(sites.shapes[slot.tensor][slot.dim] - shapes[slot.tensor][slot.dim], slot.index.shape[1])
    if rest or not 0 <= removed < site.width:
        raise InvalidSetting(_other_family(slot.tensor, f"the shape {shapes[slot.tensor]}"))
    return site.width - removed


def _owners(sites: Sites) -> Mapping[Place, set[str]]:
    """The sites that have units in each dimension."""
    found = defaultdict[Place, set[str]](set)
    for site in sites.values():
        for slot in site.slots:
            found[slot.tensor, slot.dim].add(site.name)
    return found


def _shapes_at(sites: Sites, units: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors if each site keeps so many units."""
    found = {name: [*shape] for name, shape in sites.shapes.items()}
    for name, site in sites.items():
        for slot in site.slots:
            found[slot.tensor][slot.dim] -= (site.width - units[name]) * slot.index.shape[1]
    return {name: tuple(shape) for name, shape in found.items()}


def _refuse_other_shapes(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the shapes that widths lead to with those of a network.

    Raises:
        InvalidSetting: If they differ.
    """
    for name in [*expected, *sorted(given.keys() - expected.keys())]:
        if expected.get(name) != given.get(name):
            found = f"the shape {given[name]}" if name in given else "no such tensor"
            raise InvalidSetting(_other_family(name, found))


def _other_family(name: str, found: str) -> str:
    return (
        f"the other network has {found} for {name!r}, which no widths of this one lead to; give a narrower network of "
        "the same family, whose tensors have the same names, with as many classes"
    )
