"""Residual branches: what is computed between a tensor and its sum with it, and can be dropped as a whole."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from scionet.errors import InvalidSetting
from scionet.network.calling import output_of
from scionet.network.phrases import counted
from scionet.network.sites import Address, Operation, Site, Sites, Slot
from scionet.typing import IntArray

_MOST = 2**16
CONSTANT = "constant"
"""Name of the tensor that takes the place of a branch, in the module that made the branch's output."""


@dataclass(frozen=True)
class StandIn:
    """What a module of a dropped branch becomes in the cut network.

    Attributes:
        dim: The dimension of the channels in what the module gives, counted from the end (-1 is the last). None where
            it passes on what another gives.
        sampling: Per dimension of its input two numbers ``(added, stride)`` that say how the size becomes that of the
            branch's output: ``ceil((size + added) / stride)``. Empty where the sizes are equal.
        place: Where the module returns a tuple: the position of the tensor, and the length of the tuple, whose other
            entries are None. None where it returns the tensor itself.
    """

    dim: int | None = None
    sampling: tuple[tuple[int, int], ...] = ()
    place: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the numbers, which a file may give.

        Raises:
            InvalidSetting: If one is out of range.
        """
        position, length = self.place or (0, 1)
        ends = all(abs(added) <= _MOST and 1 <= stride <= _MOST for added, stride in self.sampling)
        if not (ends and (self.dim is None or -_MOST <= self.dim < 0) and 0 <= position < length <= _MOST):
            raise InvalidSetting(
                "a stand-in has a dimension counted from the end, strides of 1 or more, and a position in a tuple; all "
                f"numbers are up to {_MOST:,}; given {self}"
            )


@dataclass(frozen=True)
class Removal:
    """How a branch is removed from a network: all that a file must know of it.

    Attributes:
        output: Path of the module whose output is the branch's output. It becomes the constant.
        stand_ins: What each module inside becomes, by its path; submodules go with it.
        loose: Parameters of modules around the branch that only the branch reads, such as a layer scale. The forward of
            these modules still reads them; each becomes a single one.
    """

    output: str
    stand_ins: Mapping[str, StandIn]
    loose: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the output is among the modules inside, and that the network itself is not.

        Raises:
            InvalidSetting: If not.
        """
        if "" in self.stand_ins or self.output not in self.stand_ins or self.stand_ins[self.output].dim is None:
            raise InvalidSetting(
                f"a branch ends with a module inside whose channels are known; given {self.output!r:.60}"
            )

    @property
    def constant(self) -> str:
        """Name of the tensor that takes the branch's place."""
        return f"{self.output}.{CONSTANT}"

    def takes(self, name: str) -> bool:
        """Whether a tensor or module of this name goes with the modules inside."""
        return any(name == path or name.startswith(f"{path}.") for path in self.stand_ins)


@dataclass(frozen=True, eq=False, repr=False)
class Branch:
    """A residual branch: what is computed between a tensor x and the sum ``x + f(x)`` or ``shortcut(x) + f(x)``.

    Attributes:
        name: The innermost module around its layers.
        removal: The modules inside, and which of them makes the output.
        channels: Number of channels of the output.
        dim: The dimension of the channels in the output, counted from the end.
        layers: Weights of the convolutions and linear maps inside, in order of execution.
        tensors: All parameters and buffers that go with the branch.
        sites: The sites that are wholly inside.
        streams: The sites that the output's channels belong to, with the channels of each unit, ``(width, per_unit)``.
        address: The operation that makes the output.
        shortcut: The operation that makes the other summand, if that runs before.
    """

    name: str
    removal: Removal
    channels: int
    dim: int
    layers: tuple[str, ...]
    tensors: tuple[str, ...]
    address: Address
    shortcut: Address | None = None
    sites: tuple[str, ...] = ()
    streams: Mapping[str, IntArray] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The branch in one line, without its tensors."""
        return f"Branch({self.name!r}, {counted(len(self.layers), 'layer')}, {counted(self.channels, 'channel')})"

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the modules inside, in order of execution; submodules are not named."""
        return tuple(self.removal.stand_ins)

    @property
    def output(self) -> str:
        """Path of the module whose output is the branch's output."""
        return self.removal.output

    @property
    def constant(self) -> str:
        """Name of the tensor that takes the branch's place in the cut network."""
        return self.removal.constant

    def spread(self, constant: Tensor) -> Tensor:
        """A vector with an entry for each channel, in a shape that expands to that of the output."""
        return constant.view(-1, *[1] * (-1 - self.dim))

    def overlaps(self, other: "Branch") -> bool:
        """Whether one of two branches lies inside the other, so that not both can be dropped."""
        return not set(self.tensors).isdisjoint(other.tensors)


@dataclass(frozen=True, eq=False)
class DroppedBranch:
    """A branch that a masked network is without.

    Attributes:
        branch: The branch.
        constant: What takes its place, ``(channels,)``; None for nothing.
    """

    branch: Branch
    constant: Tensor | None

    @property
    def replacement(self) -> dict[str, Tensor]:
        """What takes the place of the branch's output, for `scionet.network.calling.replaced`."""
        values = torch.zeros(self.branch.channels) if self.constant is None else self.constant
        return {output_of(self.branch.output): self.branch.spread(values)}


def remaining(sites: Sites, dropped: Mapping[str, Any]) -> Sites:
    """The sites of a network without some of its branches.

    Sites inside a dropped branch are left out. A site that the branch's output belongs to loses its producers and
    consumers inside, and shrinks the constant instead.

    Args:
        sites: The sites of the whole network.
        dropped: By name of the branch, what takes its place; None for zeros, which are no parameter.

    Raises:
        InvalidSetting: If there is no such branch, or one lies in another.
    """
    if not dropped:
        return sites
    sites.refuse_clash(dropped)
    gone = [sites.branches[name] for name in dropped]
    lost = {tensor for branch in gone for tensor in branch.tensors}
    left = {name: _without(site, gone, lost) for name, site in sites.items()}
    left = {name: site for name, site in left.items() if site.producers and site.consumers}
    read = {weight for site in left.values() for weight in site.consumers}
    constants = {branch.constant: (branch.channels,) for branch in gone}
    ones = {name: (1,) * len(sites.shapes[name]) for branch in gone for name in branch.removal.loose}
    trained = [sites.branches[name].constant for name, value in dropped.items() if value is not None]
    return replace(
        sites,
        sites=left,
        consumers={weight: consumer for weight, consumer in sites.consumers.items() if weight in read},
        operations=tuple(each for each in sites.operations if not _inside(each, gone)),
        shapes={**{name: shape for name, shape in sites.shapes.items() if name not in lost}, **ones, **constants},
        parameters=(*(name for name in sites.parameters if name not in lost), *trained),
        branches={n: b for n, b in sites.branches.items() if not any(b.overlaps(other) for other in gone)},
        dropped=(*sites.dropped, *dropped),
    )


def _without(site: Site, gone: Iterable[Branch], lost: Collection[str]) -> Site:
    """A site without the tensors of some branches, and with their constants."""
    constants = (Slot(b.constant, 0, b.streams[site.name]) for b in gone if site.name in b.streams)
    return replace(
        site,
        slots=(*(slot for slot in site.slots if slot.tensor not in lost), *constants),
        producers=tuple(name for name in site.producers if name not in lost),
        consumers=tuple(name for name in site.consumers if name not in lost),
    )


def _inside(operation: Operation, gone: Iterable[Branch]) -> bool:
    """Whether an operation is in one of these branches."""
    return any(branch.removal.takes(operation.place) for branch in gone)
