"""Groups of weights, handed in as indices by parameter name. Training does not know what a group stands for.

Every operation runs once per member (a dimension of a parameter) and never once per group.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from scionet.errors import InvalidSetting

Tensors = Mapping[str, Tensor]
"""Tensors with the shapes of parameters, by name: the parameters themselves, an average of them, momentum, ..."""
Role = Literal["weight", "bias", "scale", "shift", "column"]
"""What entries are: of a weight's outputs, of its bias, of a norm's scale or shift, of a weight's inputs."""


@dataclass(frozen=True, eq=False, repr=False)
class Member:
    """The entries of some groups in one dimension of one parameter.

    Attributes:
        parameter: Qualified name of the parameter.
        dim: The dimension, from 0.
        groups: Numbers of the groups that have entries here, int64 ``(n,)``.
        index: The entries of each of these groups, int64 ``(n, per_group)``.
        role: What the entries are.
        seen: Whether the network's function depends on the size of these entries. It does not where a BatchNorm follows
            and divides by it.
    """

    parameter: str
    dim: int
    groups: Tensor
    index: Tensor
    role: Role = "weight"
    seen: bool = True

    def __post_init__(self) -> None:
        """Check the indices.

        Raises:
            InvalidSetting: If they are not whole numbers of 0 or more, in the right shapes.
        """
        shapes = tuple(self.groups.shape), tuple(self.index.shape)
        if any(each.dtype != torch.int64 for each in (self.groups, self.index)):
            raise InvalidSetting(
                f"groups and index of {self} must be int64; given {self.groups.dtype}, {self.index.dtype}"
            )
        if len(shapes[0]) != 1 or len(shapes[1]) != 2 or shapes[0][0] != shapes[1][0] or not self.index.numel():
            raise InvalidSetting(
                f"groups must be (n,) and index (n, per_group) with entries, in {self}; given {shapes}"
            )
        if self.dim < 0 or int(self.groups.min()) < 0 or int(self.index.min()) < 0:
            raise InvalidSetting(f"dim, groups and index of {self} must be 0 or more")

    def __repr__(self) -> str:
        """The member in one line, without its indices."""
        return f"Member({self.parameter!r}, dim {self.dim}, {self.role})"


@dataclass(frozen=True, eq=False, repr=False)
class ParameterGroups:
    """Groups of weights. Each has entries in one or several parameters.

    An entry lies in at most one group by each dimension. Two groups may share entries of a parameter that has members
    along two dimensions (see `overlapping`): such an entry counts in both groups, and both factors act on it.

    Attributes:
        count: Number of groups.
        members: The entries, by parameter and dimension.
    """

    count: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        """Check that the groups are well defined.

        Raises:
            InvalidSetting: If there are none, a number is not that of a group, an entry belongs to two groups along one
                dimension, or to one group along two.
        """
        if not self.members:
            raise InvalidSetting("groups without entries; give at least one member")
        taken: dict[tuple[str, int], list[Member]] = defaultdict(list)
        for member in self.members:
            if int(member.groups.max()) >= self.count:
                raise InvalidSetting(f"{member} has group {int(member.groups.max())}; there are {self.count}, from 0")
            taken[member.parameter, member.dim].append(member)
        for place in taken.values():
            _refuse_twice(
                torch.cat([each.index.flatten() for each in place]), place[0], "an entry belongs to two groups"
            )
        for name in self.overlapping:
            along = [torch.cat([m.groups for m in place]).unique() for (key, _), place in taken.items() if key == name]
            first = taken[next(key for key in taken if key[0] == name)][0]
            _refuse_twice(
                torch.cat(along), first, "a group has entries along two dimensions, which it would count twice"
            )

    def __repr__(self) -> str:
        """The groups in one line."""
        return f"ParameterGroups({self.count:,} groups in {len(self.parameters):,} parameters)"

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that have members, each once."""
        return tuple(dict.fromkeys(member.parameter for member in self.members))

    @property
    def overlapping(self) -> tuple[str, ...]:
        """Parameters with members along several dimensions, whose entries may belong to several groups."""
        dims = {(member.parameter, member.dim) for member in self.members}
        return tuple(name for name in self.parameters if sum(key == name for key, _ in dims) > 1)

    def of(self, *roles: Role) -> "ParameterGroups":
        """The same groups with only the members of some roles. Keep the result: indices are prepared on its first use.

        Raises:
            InvalidSetting: If there is no such member.
        """
        return self._only(lambda member: member.role in roles, f"the role {' or '.join(roles)}")

    def only(self, chosen: Tensor) -> "ParameterGroups":
        """Some of the groups, numbered anew in their order.

        Args:
            chosen: Which groups, boolean ``(groups,)``.

        Raises:
            InvalidSetting: If there is none.
        """
        numbers = chosen.cumsum(0) - 1
        members = []
        for member in self.members:
            mine = chosen[member.groups]
            if bool(mine.any()):
                numbered = {"groups": numbers[member.groups[mine]], "index": member.index[mine]}
                members.append(replace(member, **numbered))
        return ParameterGroups(int(chosen.sum()), tuple(members))

    @cached_property
    def seen(self) -> "ParameterGroups":
        """The same groups with only the members whose size the network's function depends on.

        Raises:
            InvalidSetting: If there is no such member.
        """
        return self._only(lambda member: member.seen, "a size that the network's function depends on")

    def _only(self, holds: Callable[[Member], bool], what: str) -> "ParameterGroups":
        kept = tuple(filter(holds, self.members))
        if not kept:
            roles = ", ".join(sorted({member.role for member in self.members}))
            raise InvalidSetting(f"no member of the groups has {what}; their roles are {roles}")
        return ParameterGroups(self.count, kept)

    def sizes(self, tensors: Tensors) -> Tensor:
        """Number of entries of each group, int64 ``(groups,)``."""
        return self._summed(tensors, lambda tensor: torch.ones_like(tensor, dtype=torch.int64))

    def squared_norms(self, tensors: Tensors) -> Tensor:
        """Sum of the squares of each group's entries, ``(groups,)``. Differentiable.

        Args:
            tensors: Tensors by name, such as ``dict(network.named_parameters())``.

        Raises:
            InvalidSetting: If they are not those of the groups.
        """
        return self._summed(tensors, lambda tensor: _precise(tensor).square())

    def absolute_sums(self, tensors: Tensors) -> Tensor:
        """Sum of the absolute values of each group's entries, ``(groups,)``. Differentiable.

        Args:
            tensors: Tensors by name.

        Raises:
            InvalidSetting: If they are not those of the groups.
        """
        return self._summed(tensors, lambda tensor: _precise(tensor).abs())

    def dots(self, tensors: Tensors, others: Tensors) -> Tensor:
        """Sum over each group's entries of the product of two tensors, ``(groups,)``. Differentiable.

        Args:
            tensors: Tensors by name.
            others: Tensors of the same shapes, such as their gradients.

        Raises:
            InvalidSetting: If they are not those of the groups.
        """
        products = {name: _precise(tensors[name]) * _precise(others[name]) for name in self.parameters}
        return self._summed(products, lambda tensor: tensor)

    @torch.no_grad()
    def scale_(self, tensors: Tensors, factors: Tensor) -> None:
        """Multiply the entries of each group, in place.

        Args:
            tensors: Tensors by name.
            factors: Factor of each group, ``(groups,)``.

        Raises:
            InvalidSetting: If tensors or factors are not those of the groups.
        """
        for tensor, factor in self._spread(tensors, factors, neutral=1):
            tensor.mul_(factor.to(tensor.dtype))

    @torch.no_grad()
    def zero_(self, tensors: Tensors, dead: Tensor) -> None:
        """Set all entries of some groups to zero, in place, also those that are NaN.

        Args:
            tensors: Tensors by name.
            dead: Which groups, boolean ``(groups,)``.

        Raises:
            InvalidSetting: If tensors or `dead` are not those of the groups.
        """
        for tensor, hidden in self._spread(tensors, dead, neutral=False):
            tensor.masked_fill_(hidden, 0)

    @torch.no_grad()
    def add_gradient_(self, parameters: Tensors, coefficients: Tensor) -> None:
        """Add coefficient · w to the gradient of every entry w: the gradient of Σ_g coefficient_g ‖w_g‖² / 2.

        A parameter that has no gradient gets one; one that does not require gradients is left out.

        Args:
            parameters: Parameters by name.
            coefficients: Coefficient of each group, ``(groups,)``.

        Raises:
            InvalidSetting: If parameters or coefficients are not those of the groups.
        """
        for parameter, coefficient in self._spread(parameters, coefficients, neutral=0):
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.addcmul_(parameter, coefficient.to(parameter.dtype))

    def _summed(self, tensors: Tensors, of: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum over the entries of each group of a function of them, ``(groups,)``."""
        owners = self._owners(tensors)
        values = torch.cat([_without_other_dims(of(tensors[each.parameter]), each.dim) for each in self.members])
        return values.new_zeros(self.count + 1).index_add(0, owners, values)[:-1]

    def _spread(self, tensors: Tensors, values: Tensor, neutral: float) -> Iterator[tuple[Tensor, Tensor]]:
        """Each member's tensor, and its groups' values as they broadcast to it; `neutral` outside all groups."""
        if values.shape != (self.count,):
            raise InvalidSetting(
                f"there must be one value for each of {self.count} groups; given {tuple(values.shape)}"
            )
        owners = self._owners(tensors)
        padded = torch.cat(
            [values.to(owners.device), torch.tensor([neutral], dtype=values.dtype, device=owners.device)]
        )
        parts = padded[owners].split([tensors[member.parameter].shape[member.dim] for member in self.members])
        for member, part in zip(self.members, parts, strict=True):
            tensor = tensors[member.parameter]
            yield tensor, part.view([-1 if dim == member.dim else 1 for dim in range(tensor.ndim)])

    def _owners(self, tensors: Tensors) -> Tensor:
        """The group of each entry of each member's dimension, one after the other; `count` for those in no group.

        Raises:
            InvalidSetting: If the tensors are not those of the groups.
        """
        for member in self.members:
            if member.parameter not in tensors or member.dim >= tensors[member.parameter].ndim:
                where = f"dimension {member.dim} of {member.parameter!r}"
                raise InvalidSetting(f"the groups are of another network: this one lacks {where}")
        sizes = tuple(tensors[member.parameter].shape[member.dim] for member in self.members)
        key = sizes, tensors[self.members[0].parameter].device
        if key not in self._known_owners:
            found = [_owner(member, size, self.count) for member, size in zip(self.members, sizes, strict=True)]
            self._known_owners[key] = torch.cat(found).to(key[1])
        return self._known_owners[key]

    @cached_property
    def _known_owners(self) -> dict[tuple[Sequence[int], torch.device], Tensor]:
        return {}


def _owner(member: Member, size: int, count: int) -> Tensor:
    """The group of each entry of a member's dimension; `count` for those in no group.

    Raises:
        InvalidSetting: If the dimension is too short.
    """
    if int(member.index.max()) >= size:
        raise InvalidSetting(
            f"the groups are of another network: {member} has entry {int(member.index.max())} of a dimension of {size}"
        )
    owner = torch.full((size,), count)
    owner[member.index.flatten()] = member.groups.repeat_interleave(member.index.shape[1])
    return owner


def _refuse_twice(numbers: Tensor, member: Member, problem: str) -> None:
    """Refuse numbers that occur twice.

    Raises:
        InvalidSetting: If one does.
    """
    if len(numbers.unique()) < len(numbers):
        raise InvalidSetting(f"{problem}, in the parameter {member.parameter!r}; leave out one of them")


def _precise(tensor: Tensor) -> Tensor:
    """A tensor in float32 at least: sums over many entries need its digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _without_other_dims(values: Tensor, dim: int) -> Tensor:
    """The sums over all dimensions but one, ``(size of that dimension,)``."""
    others = [other for other in range(values.ndim) if other != dim]
    return values.sum(others) if others else values
