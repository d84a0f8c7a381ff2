"""The parts of a manifest that are checked when they are read: tensors, ties, and example inputs."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from scionet.errors import CheckpointError
from scionet.files.json_dataclasses import build, optional, plain
from scionet.files.parsing import below
from scionet.network.branches import Removal
from scionet.network.calling import Batch, as_arguments
from scionet.network.plan import PlanRecord

LARGEST_INPUTS = 2**30
"""Bytes that the recorded example inputs may take when they are made again."""
_MAX_ENTRIES = 2**62
_DTYPES = {
    str(kind).removeprefix("torch."): kind
    for name, kind in vars(torch).items()
    if isinstance(kind, torch.dtype) and not name.startswith("q")  # quantised types have no zeros
}


@dataclass(frozen=True)
class TensorRecord:
    """A tensor of the dense network.

    Attributes:
        dense: Its shape.
        kept: Per dimension that shrank, the entries that were kept, ascending.
    """

    dense: tuple[int, ...]
    kept: Mapping[int, tuple[int, ...]]

    def __post_init__(self) -> None:
        """Check sizes and entries.

        Raises:
            CheckpointError: If they are out of range.
        """
        _refuse_shape(self.dense)
        for dim, entries in self.kept.items():
            if dim >= len(self.dense):
                raise CheckpointError(f"kept names dimension {dim} of the shape {self.dense}; dimensions count from 0")
            steps = [-1, *entries, self.dense[dim]]
            if not entries or any(a >= b for a, b in pairwise(steps)):
                raise CheckpointError(
                    f"kept entries of dimension {dim} must be an ascending, non-empty subset of "
                    f"0..{self.dense[dim] - 1}; given {entries[:8]}{'...' if len(entries) > 8 else ''}"
                )


@dataclass(frozen=True)
class PruningRecord:
    """One pruning; the attributes are those of `Pruning`."""

    plan: PlanRecord
    slots: Mapping[str, tuple[tuple[str, int, int], ...]]
    removals: Mapping[str, Removal] = optional(dict)

    def __post_init__(self) -> None:
        """Check that there is a removal for each dropped branch.

        Raises:
            CheckpointError: If not.
        """
        if self.removals.keys() != self.plan.dropped.keys():
            raise CheckpointError("removals must name the dropped branches of the plan")


@dataclass(frozen=True)
class TensorInput:
    """A tensor among the example inputs: its shape, and the name of its type."""

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        """Check shape and type.

        Raises:
            CheckpointError: If there is no such shape or type.
        """
        _refuse_shape(self.shape)
        if self.dtype not in _DTYPES:
            raise CheckpointError(f"dtype must name a type of torch, such as 'float32'; given {self.dtype!r:.40}")

    @property
    def n_bytes(self) -> int:
        """Bytes that the tensor takes."""
        return prod(self.shape) * _DTYPES[self.dtype].itemsize

    def blank(self) -> Tensor:
        """Zeros that share one entry, since the shape may be anybody's."""
        return torch.zeros((), dtype=_DTYPES[self.dtype]).expand(self.shape)


@dataclass(frozen=True)
class ValueInput:
    """Another example input, as it is."""

    value: Any

    n_bytes = 0

    def blank(self) -> Any:
        """The value."""
        return self.value


@dataclass(frozen=True)
class Inputs:
    """Example inputs: positional and keyword arguments."""

    args: tuple[TensorInput | ValueInput, ...]
    kwargs: Mapping[str, TensorInput | ValueInput]

    def __post_init__(self) -> None:
        """Check that there is a tensor, and how much memory all of them take.

        Raises:
            CheckpointError: If there is none, there are both positional and keyword arguments, or they take too much.
        """
        values = [*self.args, *self.kwargs.values()]
        if bool(self.args) == bool(self.kwargs) or not any(isinstance(value, TensorInput) for value in values):
            raise CheckpointError("example inputs must be positional or keyword arguments with one tensor or more")
        if (size := sum(value.n_bytes for value in values)) > LARGEST_INPUTS:
            raise CheckpointError(
                f"example inputs take {size:,} bytes; at most {LARGEST_INPUTS:,} are recorded. Give fewer examples"
            )

    def blank(self) -> Batch:
        """Zeros in place of the tensors; they take no memory, and are not to be written to."""
        return {key: value.blank() for key, value in self.kwargs.items()} or tuple(v.blank() for v in self.args)


def input_record(batch: Batch) -> dict[str, Any]:
    """Shapes and types of the tensors of a batch as JSON; other values are recorded as they are."""
    args, kwargs = as_arguments(batch)
    return {"args": [_form(value) for value in args], "kwargs": {key: _form(value) for key, value in kwargs.items()}}


def inputs_of(record: Mapping[str, Any], where: str = "inputs") -> Inputs:
    """The example inputs of a record that `input_record` returned; `where` is what it is, for error messages.

    Raises:
        ValueError: If it is no such record.
    """
    return build(Inputs, plain(record), where)


def lost_tensors(prunings: Iterable[PruningRecord], tensors: Mapping[str, TensorRecord]) -> frozenset[str]:
    """Names of the tensors that went with dropped branches.

    Raises:
        CheckpointError: If a constant is no stored vector of the size that the plan says, or what becomes a single one
            is no stored tensor.
    """
    lost: set[str] = set()
    for number, pruning in enumerate(prunings):
        for name, removal in pruning.removals.items():
            where = f"{below(f'manifest.prunings[{number}].removals', name)}"
            constant, size = tensors.get(removal.constant), pruning.plan.dropped[name]
            if constant is None or len(constant.dense) != 1 or size not in (None, *constant.dense):
                raise CheckpointError(f"{where}: {removal.constant!r:.60} must be a vector, as long as the plan says")
            if missing := [loose for loose in removal.loose if loose not in tensors]:
                raise CheckpointError(f"{where}: {missing[0]!r:.60} is no stored tensor")
            lost |= {tensor for tensor in tensors if removal.takes(tensor)}
            lost -= {removal.constant}
    return frozenset(lost)


def refuse_other_plans(
    prunings: Sequence[PruningRecord], tensors: Mapping[str, TensorRecord], gone: Collection[str] = ()
) -> None:
    """Check that plans remove as many entries of each tensor as are missing.

    Args:
        prunings: The prunings.
        tensors: The tensors.
        gone: Names of the tensors that went with dropped branches.

    Raises:
        CheckpointError: If not, or a plan and its slots name different sites.
    """
    ones = {loose for pruning in prunings for removal in pruning.removals.values() for loose in removal.loose}
    removed: Counter[tuple[str, int]] = Counter()
    for number, pruning in enumerate(prunings):
        where = f"manifest.prunings[{number}]"
        widths = {choice.site: choice.width - len(choice.kept) for choice in pruning.plan.choices}
        if widths.keys() != pruning.slots.keys() or not all(pruning.slots.values()):
            raise CheckpointError(f"{where}.slots must name the sites of the plan, each with one slot or more")
        for site, slots in pruning.slots.items():
            for tensor, dim, per_unit in slots:
                if per_unit < 1 or tensor not in tensors or not 0 <= dim < len(tensors[tensor].dense):
                    raise CheckpointError(
                        f"{below(where, 'slots')}: {tensor!r:.60}, dimension {dim}, {per_unit} entries per unit, is no "
                        "dimension of a stored tensor"
                    )
                removed[tensor, dim] += per_unit * widths[site]
    for name, tensor in tensors.items():
        if name in gone:
            continue
        if name in ones and any(n > 1 and len(tensor.kept.get(dim, ())) != 1 for dim, n in enumerate(tensor.dense)):
            raise CheckpointError(f"{below('manifest.tensors', name)} must have a single entry left")
        for dim, size in enumerate(tensor.dense if name not in ones else ()):
            missing = size - len(tensor.kept[dim]) if dim in tensor.kept else 0
            if missing != removed[name, dim]:
                raise CheckpointError(
                    f"{below('manifest.tensors', name)} lacks {missing} entries of dimension {dim}; by the plans it "
                    f"lacks {removed[name, dim]}"
                )


def refuse_odd_ties(tied: Mapping[str, str], tensors: Mapping[str, TensorRecord]) -> None:
    """Check that every tied tensor has the shape and the kept entries of the stored one.

    Raises:
        CheckpointError: If not.
    """
    for name, home in tied.items():
        if home in tied or name not in tensors or tensors.get(home) != tensors[name]:
            raise CheckpointError(
                f"manifest.tied names {home!r:.60} as the home of {name!r:.60}; a home must be a stored tensor of the "
                "same shape and kept entries"
            )


def _refuse_shape(shape: tuple[int, ...]) -> None:
    if min(shape, default=0) < 0 or prod(max(1, size) for size in shape) > _MAX_ENTRIES:
        raise CheckpointError(f"a shape must have sizes of 0 or more and at most 2^62 entries; given {shape!r:.60}")


def _form(value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    return {"value": value}
