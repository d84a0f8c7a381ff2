"""What convolutions, matrix products and BatchNorm do to channels: they contract over them, and make them."""

from typing import Any

from torch import Tensor

from scionet.network.calling import tensors_of
from scionet.network.discovery.elementwise_rules import aligned, aligned_shape, argument, join, lock_all, mixed, vectors
from scionet.network.discovery.tracing import Call, Planes, Trace, varying

_SPREAD = "the channels are spread over other dimensions than the one that is contracted or normalised"
_FIXED = "the tensor it meets there has a fixed number of channels (an input of the network, or locked elsewhere)"
_COMPUTED = (
    "no stored weight of the layout (outputs, inputs) contracts the channels there; make a computed one a parameter "
    "(torch.nn.utils.parametrize.remove_parametrizations), and a transposed one an nn.Linear"
)
_TRANSPOSED = "transposed convolutions are not supported; the channels on both sides of one stay whole"


def batch_norm(trace: Trace, done: Call) -> None:
    """Channels are normalised one by one; statistics and affine parameters go with them."""
    source, *affine = done.args[:5]
    out = next(tensors_of(done.out))
    planes = tuple(trace.gather(p, 1, done.name) for p in trace.planes(source) if 1 in varying(p))
    trace.lock((p for p in trace.planes(source) if 1 not in varying(p)), done.name, _SPREAD)
    for tensor in (t for t in affine if isinstance(t, Tensor)):
        own = vectors(trace.planes(tensor), out.ndim)
        planes = join(trace, done.name, planes, source.shape, own, [1, tensor.numel()] + [1] * (out.ndim - 2))
    trace.give(out, planes, done.name)
    mean = affine[2]
    name = trace.name_of(mean) if isinstance(mean, Tensor) else None
    if name is not None:
        trace.hand_on(source, out, norm=name.rpartition(".")[0])


def convolution(trace: Trace, done: Call) -> None:
    """The input's channels go with the weight's dimension 1, the result's with dimension 0."""
    source, weight, bias = done.args[:3]
    transposed, groups = bool(done.args[6]), int(done.args[8])
    name = None if transposed else trace.name_of(weight)
    trace.contract(name, done)
    if name is None:
        lock_all(trace, done, _TRANSPOSED if transposed else _COMPUTED)
        return
    outer, inner = (tuple(p for p in trace.planes(weight) if varying(p) == {dim}) for dim in (0, 1))
    channels = tuple(trace.gather(p, 1, done.name) for p in trace.planes(source) if 1 in varying(p))
    trace.lock((p for p in trace.planes(source) if 1 not in varying(p)), done.name, _SPREAD)
    if groups > 1:
        _unite_groups(trace, done.name, channels, outer, groups)
        trace.lock(inner, done.name, "the width inside a group is fixed; whole groups are removed")
    else:
        _unite_or_lock(trace, done.name, channels, inner)
    trace.give(done.out, _plus_bias(trace, done, vectors(outer, done.out.ndim), bias), done.name)


def _plus_bias(trace: Trace, done: Call, planes: Planes, bias: Any) -> Planes:
    if not isinstance(bias, Tensor):
        return planes
    own = vectors(trace.planes(bias), done.out.ndim)
    shape = [1, bias.numel()] + [1] * (done.out.ndim - 2)
    return join(trace, done.name, planes, shape, own, shape)


def _unite_or_lock(trace: Trace, operation: str, first: Planes, second: Planes) -> None:
    """Unite what is contracted over; where one side has no labels the other side stays."""
    for plane in first:
        for partner in second:
            trace.unite(plane, partner, operation)
    if not (first and second):
        trace.lock((*first, *second), operation, _FIXED)


def _unite_groups(trace: Trace, operation: str, channels: Planes, outer: Planes, groups: int) -> None:
    """All inputs and outputs of one group of a grouped convolution go together."""
    if not (channels and outer):
        trace.lock((*channels, *outer), operation, _FIXED)
    for made in (p.reshape(groups, -1) for p in outer):
        for plane in (*(p.reshape(groups, -1) for p in channels), made):
            trace.unite(plane, made[:, :1], operation)


def product(trace: Trace, done: Call) -> None:
    """A linear map where the right factor is a stored weight; else a product of two activations."""
    added = argument(done, "self") if done.name.startswith(("add", "badd")) else None
    left, right = done.args[:2] if added is None else done.args[1:3]
    name = trace.name_of(right, transposed=True)
    made = trace.contract(name, done)
    scaled = any(done.kwargs.get(factor, 1) != 1 for factor in ("alpha", "beta"))
    if scaled or (name is None and right.ndim == 2):
        lock_all(trace, done, _COMPUTED)
        return
    planes = _of_activations(trace, done, left, right) if name is None else _linear(trace, done, left, right)
    if added is not None:
        own, shape = aligned(trace.planes(added), done.out.ndim), aligned_shape(added, done.out.ndim)
        planes = join(trace, done.name, planes, done.out.shape, own, shape)
    trace.give(done.out, planes, done.name)
    if name is None:
        made.planes = trace.planes(done.out)


def _linear(trace: Trace, done: Call, left: Tensor, right: Tensor) -> Planes:
    """The labels that are contracted over are united."""
    rows, keys_left = _split(trace, done.name, trace.planes(left), left.ndim - 1)
    columns, keys_right = _split(trace, done.name, trace.planes(right), right.ndim - 2)
    _unite_or_lock(trace, done.name, keys_left, tuple(p.transpose(-1, -2) for p in keys_right))
    return (*rows, *columns)


def _of_activations(trace: Trace, done: Call, left: Tensor, right: Tensor) -> Planes:
    """A batch of products ``(batch, row, inner) @ (batch, inner, column)``, such as those of attention.

    Without some of the terms of its sums a product would be another one, so what is contracted over can only go along
    with its whole product (a head), where products have channels of their own; else it stays.
    """
    first = mixed(trace, done.name, trace.planes(left), {2}, _COMPUTED)
    second = mixed(trace, done.name, trace.planes(right), {1}, _COMPUTED)
    heads = [tuple(trace.gather(p, 0, done.name) for p in side if 0 in varying(p)) for side in (first, second)]
    sizes = (len(done.out), 1, 1)
    rest = (p for p in (*first, *second) if 0 not in varying(p))
    return (*join(trace, done.name, heads[0], sizes, heads[1], sizes), *rest)


def _split(trace: Trace, operation: str, planes: Planes, contracted: int) -> tuple[Planes, Planes]:
    """Planes beside the contracted dimension, and planes along it alone; mixed ones are locked."""
    trace.lock((p for p in planes if contracted in varying(p) and len(varying(p)) > 1), operation, _SPREAD)
    beside = tuple(p for p in planes if contracted not in varying(p))
    return beside, tuple(p for p in planes if varying(p) == {contracted})
