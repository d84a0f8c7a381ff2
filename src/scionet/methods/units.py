"""The units of a network as groups of weights that shrink together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from scionet.choices.shrinking import MembersName
from scionet.errors import InvalidSetting
from scionet.network.sites import Site, Sites, Slot
from scionet.torch_internals import BatchNormBase
from scionet.training.groups import Member, ParameterGroups, Role


@dataclass(frozen=True, eq=False)
class Units:
    """All units of all sites, numbered one site after the other.

    Attributes:
        sites: Names of the sites.
        widths: Units of each site.
        produced: The entries that compute each unit: of the weights and biases of its producers (roles "weight" and
            "bias"), and of the BatchNorms that alone read these ("scale" and "shift").
        reading: The entries that read each unit: of the weights of its consumers ("column"); None for branches.
        norms: The BatchNorm that alone reads a producer, by the producer's weight.
    """

    sites: tuple[str, ...]
    widths: tuple[int, ...]
    produced: ParameterGroups
    reading: ParameterGroups | None
    norms: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, sites: Sites) -> "Units":
        """The units of a network."""
        norms = _norms(model, sites)
        produced, columns = list[Member](), list[Member]()
        first, parameters = 0, dict(model.named_parameters())
        for site in sites.values():
            produced += (each for each in _produced(site, norms, first) if each.parameter in parameters)
            columns += _columns(site, first)
            first += site.width
        widths = tuple(site.width for site in sites.values())
        produced_groups, column_groups = (ParameterGroups(first, tuple(each)) for each in (produced, columns))
        return cls(tuple(sites), widths, produced_groups, column_groups, norms)

    @classmethod
    def of_branches(cls, model: nn.Module, sites: Sites) -> "Units":
        """The residual branches of a network, each as a single unit: the last layer inside, and the norm behind it.

        Raises:
            InvalidSetting: If there are no branches, or the last layer of one does not make its channels.
        """
        if not sites.branches:
            raise InvalidSetting(
                f"{type(model).__name__} has no residual branches; print(discover(...)) says why. Choose "
                "structures='units'"
            )
        parameters, produced, norms = dict(model.named_parameters()), list[Member](), _norms(model, sites)
        for number, branch in enumerate(sites.branches.values()):
            weight = branch.layers[-1]
            if len(parameters[weight]) != branch.channels:
                raise InvalidSetting(
                    f"the last layer of the branch {branch.name!r}, {weight!r}, has {len(parameters[weight])} outputs, "
                    f"and the branch {branch.channels}: there is no single place for its factor; choose "
                    "structures='units'"
                )
            entries = torch.tensor([number]), torch.arange(branch.channels)[None]
            for tensor, role, seen in _roles(weight, norms.get(weight)):
                if tensor in parameters:
                    produced.append(Member(tensor, 0, *entries, role, seen))
        groups = ParameterGroups(len(sites.branches), tuple(produced))
        return cls(tuple(sites.branches), (1,) * groups.count, groups, None, norms)

    @property
    def columns(self) -> ParameterGroups:
        """The entries that read each unit."""
        assert self.reading is not None, "branches are not read by columns of their own"
        return self.reading

    @property
    def count(self) -> int:
        """Number of units."""
        return sum(self.widths)

    def members(self, chosen: MembersName) -> ParameterGroups:
        """The entries that count as a unit's own.

        Raises:
            InvalidSetting: If a weight both computes and reads a unit, whose column then overlaps with its filter.
        """
        if chosen == "producers":
            return self.produced
        if chosen == "inputs":
            return self.produced.of("weight")
        return ParameterGroups(self.count, (*self.produced.members, *self.columns.members))

    @cached_property
    def places(self) -> Tensor:
        """Where each unit stands in a table of one row per site, flattened; int64 ``(units,)``."""
        longest = max(self.widths)
        return torch.cat([torch.arange(width) + row * longest for row, width in enumerate(self.widths)])

    @cached_property
    def owners(self) -> Tensor:
        """The number of each unit's site, int64 ``(units,)``."""
        return torch.arange(len(self.widths)).repeat_interleave(torch.tensor(self.widths))

    def table(self, values: Tensor, filler: float = 0.0) -> Tensor:
        """Values ``(units,)`` as a table ``(sites, most units)``, with `filler` at the end of shorter rows."""
        table = values.new_full((len(self.widths) * max(self.widths),), filler)
        table[self.places.to(values.device)] = values
        return table.view(len(self.widths), -1)

    def flat(self, table: Tensor) -> Tensor:
        """The values of a `table`, ``(units,)``."""
        return table.flatten()[self.places.to(table.device)]

    def by_site(self, values: Tensor) -> dict[str, Tensor]:
        """Values ``(units,)``, split by site."""
        return dict(zip(self.sites, values.split(self.widths), strict=True))

    def importance(self, model: nn.Module) -> Tensor:
        """The L1 norm of each unit's filters, with the BatchNorms behind them folded in; ``(units,)``.

        A filter behind which a BatchNorm stands is multiplied by γ / √(running variance + ε), since the network's
        function does not depend on its own size. Several producers of a unit are summed.
        """
        tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
        for weight, norm in self.norms.items():
            if weight in self.produced.parameters:
                factors = _folded(model.get_submodule(norm)).to(tensors[weight])
                tensors[weight] = tensors[weight] * factors.view(-1, *[1] * (tensors[weight].ndim - 1))
        return self.produced.of("weight").absolute_sums(tensors)

    def lowest(self, values: Tensor, counts: tuple[int, ...]) -> Tensor:
        """The units of lowest value in each site, the first of equal ones; boolean ``(units,)``.

        Args:
            values: ``(units,)``.
            counts: How many of each site.
        """
        order = self.table(values.double(), float("inf")).argsort(dim=1, stable=True)
        ranks = order.argsort(dim=1)
        return self.flat(ranks < torch.tensor(counts, device=values.device)[:, None])

    def without(self, *roles: str) -> tuple[str, ...]:
        """Names of the sites of which some unit has no entry in any of these roles."""
        having = torch.zeros(self.count, dtype=torch.bool)
        for member in self.produced.members:
            if member.role in roles:
                having[member.groups] = True
        return tuple(name for name, has in self.by_site(having).items() if not bool(has.all()))


def _norms(model: nn.Module, sites: Sites) -> dict[str, str]:
    """The BatchNorm that alone reads a layer, by the layer's weight."""
    behind = {each.weight: each.norm for each in sites.operations if each.weight and each.norm}
    return {weight: norm for weight, norm in behind.items() if isinstance(model.get_submodule(norm), BatchNormBase)}


def _roles(weight: str, norm: str | None) -> Iterator[tuple[str, Role, bool]]:
    """The tensors of a layer and of the norm behind it, their roles, and whether the function depends on their size."""
    yield weight, "weight", norm is None
    yield f"{weight.removesuffix('weight')}bias", "bias", norm is None
    if norm is not None:
        yield f"{norm}.weight", "scale", True
        yield f"{norm}.bias", "shift", True


def _produced(site: Site, norms: Mapping[str, str], first: int) -> Iterator[Member]:
    """The entries that compute a site's units, which are numbered from `first`."""
    slots = {(slot.tensor, slot.dim): slot for slot in site.slots}
    for weight in site.producers:
        for tensor, role, seen in _roles(weight, norms.get(weight)):
            if (tensor, 0) in slots:
                yield _member(slots[tensor, 0], role, first, seen)


def _columns(site: Site, first: int) -> Iterator[Member]:
    """The entries that read a site's units, which are numbered from `first`."""
    for weight in site.consumers:
        yield _member(site.slot(weight, 1), "column", first)


def _member(slot: Slot, role: Role, first: int, seen: bool = True) -> Member:
    index = torch.as_tensor(slot.index)
    return Member(slot.tensor, slot.dim, torch.arange(first, first + len(index)), index, role, seen)


def _folded(norm: nn.Module) -> Tensor:
    """The factor of each channel of a BatchNorm, ``(channels,)``."""
    assert isinstance(norm, BatchNormBase)
    variance = torch.ones(norm.num_features) if norm.running_var is None else norm.running_var
    return (1.0 if norm.weight is None else norm.weight.detach()) / (variance + norm.eps).sqrt()
