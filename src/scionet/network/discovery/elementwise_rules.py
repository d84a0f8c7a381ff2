"""Steps that the rules of several operations share: uniting the planes of operands, locking, finding arguments."""

from collections.abc import Sequence, Set

import torch
from torch import Tensor

from scionet.network.calling import tensors_of
from scionet.network.discovery.trace_records import Call, Planes
from scionet.network.discovery.tracing import Trace, varying

ADVICE = {
    "native_layer_norm": "a normalisation over the channels changes when one is removed; prune inner widths instead",
    "native_group_norm": "group normalisation mixes the channels of a group; BatchNorm in its place could be pruned",
}
UNKNOWN = "this operation mixes channels in a way that is not known to be prunable; the channels stay whole"


def lock_all(trace: Trace, op: Call, advice: str | None = None) -> None:
    """Lock all channels that an operation reads; its results carry no tags."""
    for tensor in tensors_of((op.args, op.kwargs)):
        trace.lock(trace.planes(tensor), op.name, advice or ADVICE.get(op.name, UNKNOWN))
    for tensor in tensors_of(op.out):
        trace.set_planes(tensor, (), op.name)


def mix(trace: Trace, operation: str, planes: Planes, dims: Set[int], advice: str = UNKNOWN) -> Planes:
    """The planes of the result of an operation that mixes the entries along some dimensions.

    Tags that also differ along other dimensions can be removed row by row, so the tags that are mixed are united. Tags
    that differ along the mixed dimensions alone are locked.
    """
    trace.lock((p for p in planes if varying(p) <= dims), operation, advice)
    return tuple(trace.merge(p, dims, operation) for p in planes if not varying(p) <= dims)


def join(
    trace: Trace, operation: str, first: Planes, first_shape: Sequence[int], second: Planes, second_shape: Sequence[int]
) -> Planes:
    """Unite the planes of the two operands of an elementwise operation and return the planes of the result."""
    out = []
    for plane in first:
        partners = [p for p in second if varying(p) & varying(plane)]
        for partner in partners:
            trace.unite(plane, partner, operation)
            plane = torch.where(plane < 0, partner, plane)
        out += [plane] if partners else _unmatched(trace, operation, plane, second_shape)
    for plane in second:
        if not any(varying(plane) & varying(p) for p in first):
            out += _unmatched(trace, operation, plane, first_shape)
    return tuple(out)


def _unmatched(trace: Trace, operation: str, plane: Tensor, shape: Sequence[int]) -> Planes:
    """The result of a plane where the other operand, of that shape, has no tags: its dimensions there cannot shrink."""
    fixed = {dim for dim in varying(plane) if shape[dim] > 1}
    return mix(trace, operation, (plane,), fixed, "it is combined with a tensor of fixed size that holds no channels")


def aligned(planes: Planes, ndim: int) -> Planes:
    """Planes with the leading dimensions of size 1 that broadcasting to `ndim` dimensions adds."""
    return tuple(p.reshape((1,) * (ndim - p.ndim) + tuple(p.shape)) for p in planes)


def aligned_shape(tensor: Tensor, ndim: int) -> tuple[int, ...]:
    """The shape of a tensor with the leading dimensions of size 1 that broadcasting to `ndim` dimensions adds."""
    return (1,) * (ndim - tensor.ndim) + tuple(tensor.shape)


def channel_planes(planes: Planes, ndim: int) -> Planes:
    """One-dimensional planes as planes along dimension 1 (the channels) of `ndim` dimensions."""
    return tuple(p.reshape([-1 if d == 1 else 1 for d in range(ndim)]) for p in planes)
