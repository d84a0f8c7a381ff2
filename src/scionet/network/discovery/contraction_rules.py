"""Rules for convolutions, matrix products and BatchNorm: they contract over channels, make them or normalise them."""

from typing import Any

from torch import Tensor

from scionet.network.calling import tensors_of
from scionet.network.discovery.elementwise_rules import (
    aligned,
    aligned_shape,
    channel_planes,
    join,
    lock_all,
    mix,
)
from scionet.network.discovery.trace_records import Call, Planes
from scionet.network.discovery.tracing import Trace, varying

_SPREAD = "the channels are spread over other dimensions than the one that is contracted or normalised"
_FIXED = "the tensor it meets there has a fixed number of channels (an input of the network, or locked elsewhere)"
_COMPUTED = (
    "no stored weight of the layout (outputs, inputs) contracts the channels there; make a computed one a parameter "
    "(torch.nn.utils.parametrize.remove_parametrizations), and a transposed one an nn.Linear"
)
_TRANSPOSED = "transposed convolutions are not supported; the channels on both sides of one stay whole"


def batch_norm(trace: Trace, op: Call) -> None:
    """Channels are normalised one by one, so the statistics and affine parameters of each are removed with it."""
    source, *affine = op.args[:5]
    out = next(tensors_of(op.out))
    planes = tuple(trace.merge_except(p, 1, op.name) for p in trace.planes(source) if 1 in varying(p))
    trace.lock((p for p in trace.planes(source) if 1 not in varying(p)), op.name, _SPREAD)
    for tensor in (t for t in affine if isinstance(t, Tensor)):
        own = channel_planes(trace.planes(tensor), out.ndim)
        planes = join(trace, op.name, planes, source.shape, own, [1, tensor.numel()] + [1] * (out.ndim - 2))
    trace.set_planes(out, planes, op.name)
    mean = affine[2]
    name = trace.name_of(mean) if isinstance(mean, Tensor) else None
    if name is not None:
        trace.record_same_origin(source, out, norm=name.rpartition(".")[0])


def convolution(trace: Trace, op: Call) -> None:
    """The channels of the input belong to dimension 1 of the weight, those of the result to dimension 0."""
    source, weight, bias = op.args[:3]
    transposed, groups = bool(op.args[6]), int(op.args[8])
    name = None if transposed else trace.name_of(weight)
    trace.record_contraction(name, op)
    if name is None:
        lock_all(trace, op, _TRANSPOSED if transposed else _COMPUTED)
        return
    outer, inner = (tuple(p for p in trace.planes(weight) if varying(p) == {dim}) for dim in (0, 1))
    channels = tuple(trace.merge_except(p, 1, op.name) for p in trace.planes(source) if 1 in varying(p))
    trace.lock((p for p in trace.planes(source) if 1 not in varying(p)), op.name, _SPREAD)
    if groups > 1:
        _unite_groups(trace, op.name, channels, outer, groups)
        trace.lock(inner, op.name, "the width inside a group is fixed; whole groups are removed")
    else:
        _unite_contracted(trace, op.name, channels, inner)
    trace.set_planes(op.out, _plus_bias(trace, op, channel_planes(outer, op.out.ndim), bias), op.name)


def _plus_bias(trace: Trace, op: Call, planes: Planes, bias: Any) -> Planes:
    if not isinstance(bias, Tensor):
        return planes
    own = channel_planes(trace.planes(bias), op.out.ndim)
    shape = [1, bias.numel()] + [1] * (op.out.ndim - 2)
    return join(trace, op.name, planes, shape, own, shape)


def _unite_contracted(trace: Trace, operation: str, first: Planes, second: Planes) -> None:
    """Unite the tags of both operands that are contracted over; if one operand has none, lock those of the other."""
    for plane in first:
        for partner in second:
            trace.unite(plane, partner, operation)
    if not (first and second):
        trace.lock((*first, *second), operation, _FIXED)


def _unite_groups(trace: Trace, operation: str, channels: Planes, outer: Planes, groups: int) -> None:
    """Unite all inputs and outputs of each group of a grouped convolution."""
    if not (channels and outer):
        trace.lock((*channels, *outer), operation, _FIXED)
    for outputs in (p.reshape(groups, -1) for p in outer):
        for plane in (*(p.reshape(groups, -1) for p in channels), outputs):
            trace.unite(plane, outputs[:, :1], operation)


def product(trace: Trace, op: Call) -> None:
    """A linear map if the right factor is a stored weight, otherwise a product of two activations."""
    added = op.argument("self") if op.name.startswith(("add", "badd")) else None
    left, right = op.args[:2] if added is None else op.args[1:3]
    name = trace.name_of(right, transposed=True)
    contraction = trace.record_contraction(name, op)
    scaled = any(op.kwargs.get(factor, 1) != 1 for factor in ("alpha", "beta"))
    if scaled or (name is None and right.ndim == 2):
        lock_all(trace, op, _COMPUTED)
        return
    planes = _activation_product(trace, op, left, right) if name is None else _linear(trace, op, left, right)
    if added is not None:
        own, shape = aligned(trace.planes(added), op.out.ndim), aligned_shape(added, op.out.ndim)
        planes = join(trace, op.name, planes, op.out.shape, own, shape)
    trace.set_planes(op.out, planes, op.name)
    if name is None:
        contraction.planes = trace.planes(op.out)


def _linear(trace: Trace, op: Call, left: Tensor, right: Tensor) -> Planes:
    """Unite the tags that are contracted over; rows and columns keep theirs."""
    rows, keys_left = _separate(trace, op.name, trace.planes(left), left.ndim - 1)
    columns, keys_right = _separate(trace, op.name, trace.planes(right), right.ndim - 2)
    _unite_contracted(trace, op.name, keys_left, tuple(p.transpose(-1, -2) for p in keys_right))
    return (*rows, *columns)


def _activation_product(trace: Trace, op: Call, left: Tensor, right: Tensor) -> Planes:
    """A batch of products ``(batch, row, inner) @ (batch, inner, column)``, such as those of attention.

    Removing some of the inner entries would change the product. They can only be removed together with their whole
    product (a head), if each product of the batch has its own channels; otherwise they are locked.
    """
    first = mix(trace, op.name, trace.planes(left), {2}, _COMPUTED)
    second = mix(trace, op.name, trace.planes(right), {1}, _COMPUTED)
    heads = [tuple(trace.merge_except(p, 0, op.name) for p in side if 0 in varying(p)) for side in (first, second)]
    sizes = (len(op.out), 1, 1)
    rest = (p for p in (*first, *second) if 0 not in varying(p))
    return (*join(trace, op.name, heads[0], sizes, heads[1], sizes), *rest)


def _separate(trace: Trace, operation: str, planes: Planes, contracted: int) -> tuple[Planes, Planes]:
    """Planes that do not vary along the contracted dimension, and planes that vary along it alone; lock the others."""
    trace.lock((p for p in planes if contracted in varying(p) and len(varying(p)) > 1), operation, _SPREAD)
    kept = tuple(p for p in planes if contracted not in varying(p))
    return kept, tuple(p for p in planes if varying(p) == {contracted})
