"""What the rules of several operations share: uniting the planes of two operands, locking, finding arguments."""

from collections.abc import Sequence, Set
from typing import Any

import torch
from torch import Tensor

from scionet.network.calling import tensors_of
from scionet.network.discovery.tracing import Call, Planes, Trace, varying

ADVICE = {
    "native_layer_norm": "a normalisation over the channels changes when one is removed; prune inner widths instead",
    "native_group_norm": "group normalisation mixes the channels of a group; only BatchNorm sites can be pruned",
}
UNKNOWN = "this operation mixes channels in a way that is not known to be prunable; the channels stay whole"


def lock_all(trace: Trace, done: Call, advice: str | None = None) -> None:
    """All channels that an operation reads stay, and its results carry none."""
    for tensor in tensors_of((done.args, done.kwargs)):
        trace.lock(trace.planes(tensor), done.name, advice or ADVICE.get(done.name, UNKNOWN))
    for tensor in tensors_of(done.out):
        trace.give(tensor, (), done.name)


def argument(done: Call, name: str) -> Any:
    """An argument by its name in the operator's schema, given by position or keyword, or its default."""
    for position, argument in enumerate(done.func._schema.arguments):
        if argument.name == name:
            given = done.args[position] if position < len(done.args) else argument.default_value
            return done.kwargs.get(name, given)
    return None


def mixed(trace: Trace, operation: str, planes: Planes, dims: Set[int], advice: str = UNKNOWN) -> Planes:
    """The planes behind an operation that mixes the entries along some dimensions.

    Labels that differ along other dimensions too can be removed row by row: those that are mixed go together. Labels
    that differ along the mixed dimensions alone stay.
    """
    trace.lock((p for p in planes if varying(p) <= dims), operation, advice)
    return tuple(trace.merge(p, dims, operation) for p in planes if not varying(p) <= dims)


def join(
    trace: Trace, operation: str, first: Planes, first_shape: Sequence[int], second: Planes, second_shape: Sequence[int]
) -> Planes:
    """Unite the planes of two operands of an elementwise operation and return those of the result."""
    out = []
    for plane in first:
        partners = [p for p in second if varying(p) & varying(plane)]
        for partner in partners:
            trace.unite(plane, partner, operation)
            plane = torch.where(plane < 0, partner, plane)
        out += [plane] if partners else _beside(trace, operation, plane, second_shape)
    for plane in second:
        if not any(varying(plane) & varying(p) for p in first):
            out += _beside(trace, operation, plane, first_shape)
    return tuple(out)


def _beside(trace: Trace, operation: str, plane: Tensor, shape: Sequence[int]) -> Planes:
    """A plane that meets no other in an operand of that shape: what is as long there without labels is fixed."""
    fixed = {dim for dim in varying(plane) if shape[dim] > 1}
    return mixed(trace, operation, (plane,), fixed, "it is combined with a tensor of fixed size that holds no channels")


def aligned(planes: Planes, ndim: int) -> Planes:
    """Planes with leading dimensions of size 1, as broadcasting adds them."""
    return tuple(p.reshape((1,) * (ndim - p.ndim) + tuple(p.shape)) for p in planes)


def aligned_shape(tensor: Tensor, ndim: int) -> tuple[int, ...]:
    """The shape of a tensor with leading dimensions of size 1, as broadcasting adds them."""
    return (1,) * (ndim - tensor.ndim) + tuple(tensor.shape)


def vectors(planes: Planes, ndim: int) -> Planes:
    """One-dimensional planes along dimension 1 of `ndim` dimensions."""
    return tuple(p.reshape([-1 if d == 1 else 1 for d in range(ndim)]) for p in planes)
