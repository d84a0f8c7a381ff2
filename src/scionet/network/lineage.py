"""Lineage: how a network came out of a dense one, so that it can be pruned again and still be saved.

`cut` and `load_pruned` note it on every module of the network that they make; copies keep it.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import Tensor, nn

from scionet.errors import CheckpointError
from scionet.network.calling import state_of
from scionet.network.plan import Plan

if TYPE_CHECKING:
    from scionet.network.branches import Removal

Shapes = Mapping[str, tuple[int, ...]]
Entries = Mapping[str, Mapping[int, tuple[int, ...]]]
"""By tensor and dimension, entries that were kept, ascending."""

_KEY = "_scionet_lineage"


@dataclass(frozen=True, eq=False)
class Pruning:
    """One pruning of a network.

    Attributes:
        plan: Its plan, without replacement tensors.
        slots: Per site of the plan the tensor dimensions that shrink with it: name, dimension, entries per unit.
        removals: How each dropped branch is removed, by its name.
    """

    plan: Plan
    slots: Mapping[str, tuple[tuple[str, int, int], ...]]
    removals: Mapping[str, "Removal"] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Lineage:
    """How a network came out of a dense one, by one or more prunings.

    Attributes:
        prunings: The prunings, that of the dense network first.
        shapes: Shape of every tensor of the dense network, by name, and of the constant of every dropped branch before
            units were removed.
        kept: Per tensor and dimension that shrank, the entries of the dense tensor that were kept.
        dense_hash: Hash of the dense network's state.
        gone: Names of the tensors that went with dropped branches.
        broken: Why the network does not come out of the dense one by these plans alone; empty if it does.
    """

    prunings: tuple[Pruning, ...]
    shapes: Shapes
    kept: Entries
    dense_hash: str
    gone: Set[str] = frozenset()
    broken: str = ""

    def __deepcopy__(self, memo: dict) -> "Lineage":
        """The lineage itself, since it never changes; so the modules of a copied network still share theirs."""
        return self

    def __repr__(self) -> str:
        """The plans in one line."""
        return f"Lineage({', '.join(map(repr, self.plans))})"

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plan of each pruning."""
        return tuple(pruning.plan for pruning in self.prunings)

    @property
    def pruned_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the pruned network by name."""
        return {name: self._pruned(name, shape) for name, shape in self.shapes.items() if name not in self.gone}

    @property
    def constants(self) -> frozenset[str]:
        """Names of the constants of all branches that were ever dropped."""
        return frozenset(removal.constant for pruning in self.prunings for removal in pruning.removals.values())

    @property
    def dense_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the dense network by name."""
        return {name: shape for name, shape in self.shapes.items() if name not in self.constants}

    def _pruned(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        kept = self.kept.get(name, {})
        return tuple(len(kept[dim]) if dim in kept else size for dim, size in enumerate(shape))

    def then(self, later: "Lineage") -> "Lineage":
        """The lineage of a network that came out of this one's network by `later`."""
        kept = {name: dict(dims) for name, dims in self.kept.items()}
        for name, dims in later.kept.items():
            for dim, entries in dims.items():
                before = self.kept.get(name, {}).get(dim)
                kept.setdefault(name, {})[dim] = entries if before is None else tuple(before[e] for e in entries)
        gone = self.gone | later.gone
        return Lineage(
            prunings=(*self.prunings, *later.prunings),
            shapes={**self.shapes, **{name: later.shapes[name] for name in later.shapes.keys() - self.shapes.keys()}},
            kept={name: dims for name, dims in kept.items() if name not in gone},
            dense_hash=self.dense_hash,
            gone=gone,
            broken=self.broken or later.broken,
        )

    def refuse_broken(self) -> None:
        """Refuse to save what could not be loaded into a fresh instance of the dense network's class.

        Raises:
            CheckpointError: If the lineage is broken.
        """
        if self.broken:
            raise CheckpointError(
                f"the network that was pruned {self.broken}; a file of it could not be loaded into a fresh, dense "
                "instance. Prune the dense network once, to the final budget, or save the state dict yourself"
            )


@dataclass(frozen=True)
class _Note:
    """What a module of a pruned network knows: the lineage of the whole network, and its own path in it."""

    lineage: Lineage
    path: str

    def __deepcopy__(self, memo: dict) -> "_Note":
        return self


def note_lineage(network: nn.Module, lineage: Lineage) -> None:
    """Note on every module of a network how the network came about."""
    for path, module in network.named_modules():
        vars(module)[_KEY] = _Note(lineage, path)


def lineage_of(network: nn.Module) -> Lineage | None:
    """The lineage of a network; None if neither it nor a part of it was pruned by scionet.

    The lineage is broken if the network is a part of a pruned one, has pruned parts, or was changed since.
    """
    notes = {path: vars(module).get(_KEY) for path, module in network.named_modules()}
    if not any(notes.values()):
        return None
    own, state = notes[""], state_of(network)
    if own is None or own.path:
        problem = _PART if own else _PARTS
    elif any(note and (note.lineage is not own.lineage or note.path != path) for path, note in notes.items()):
        problem = _PARTS
    elif not _fits(own.lineage, state):
        problem = _CHANGED
    else:
        return own.lineage
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Lineage((), shapes, MappingProxyType({}), "", broken=problem)


def _fits(lineage: Lineage, state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a network have the names and shapes that its lineage leaves."""
    expected = lineage.pruned_shapes
    first = {id(tensor): name for name, tensor in reversed([*state.items()])}  # of tied names, only the first is cut
    return state.keys() == expected.keys() and all(tuple(state[n].shape) == expected[n] for n in first.values())


_PART = "is a part of a network that was pruned before"
_PARTS = "has a part that was pruned on its own before"
_CHANGED = "was pruned before, and then got tensors of other names or shapes"
