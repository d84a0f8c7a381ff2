"""What each tensor operation does to channels: the table behind `discover`.

An operation moves labels (and is done to the label planes themselves), unites the labels that meet in it, contracts
over them, reduces or pools beside them, or, if it is none of these, locks them. A new operation is one line in a table.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from scionet.network.running import tensors_of
from scionet.network.tracing import Call, Planes, Trace, varying

PERMUTES = frozenset("permute transpose t alias detach lift_fresh".split())
MOVES = frozenset(
    "view _unsafe_view reshape slice select split split_with_sizes unbind expand squeeze unsqueeze "
    "constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle roll flip repeat index index_select "
    "narrow unfold diagonal movedim".split()
)
ELEMENTWISE = frozenset(
    "clone contiguous copy copy_ _to_copy dropout native_dropout hardswish hardsigmoid silu mish gelu elu celu selu "
    "leaky_relu prelu _prelu_kernel softplus hardtanh relu6 fill zero".split()
)
POOLS = frozenset(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d "
    "upsample_bicubic2d upsample_linear1d upsample_trilinear3d upsample_nearest3d _upsample_bilinear2d_aa "
    "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d grid_sampler_2d".split()
)
REDUCTIONS = frozenset("mean sum amax amin max min var std prod linalg_vector_norm norm logsumexp".split())
SOFTMAXES = frozenset("_softmax _log_softmax cumsum".split())
BATCH_NORMS = frozenset(
    "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit_no_training "
    "_native_batch_norm_legit _batch_norm_no_update".split()
)
PRODUCTS = frozenset("mm addmm bmm baddbmm".split())

_ADVICE = {
    "native_layer_norm": "a normalisation over the channels changes when one is removed; prune inner widths instead",
    "native_group_norm": "group normalisation mixes the channels of a group; only BatchNorm sites can be pruned",
}
_SPREAD = "the channels are spread over several dimensions where they are contracted"
_FIXED = "the tensor it meets there has a fixed number of channels (an input of the network, or locked elsewhere)"
_UNKNOWN = "this operation mixes channels in a way that is not known to be prunable; the channels stay whole"


def apply(trace: Trace, done: Call) -> None:
    """Hand the labels of an operation's inputs on to its outputs."""
    base = done.name.rstrip("_") if not done.name.startswith("_") else done.name
    if base == "convolution":
        _convolution(trace, done)
    elif base in PRODUCTS:
        _product(trace, done)
    elif any(trace.planes(t) for t in tensors_of((done.args, done.kwargs))):
        _rule_for(base, done)(trace, done)


def _rule_for(base: str, done: Call) -> Callable[[Trace, Call], None]:
    tables: tuple[tuple[frozenset[str], Callable[[Trace, Call], None]], ...] = (
        (BATCH_NORMS, _batch_norm),
        (frozenset({"cat"}), _concatenate),
        (frozenset({"stack"}), _lock_all),
        (PERMUTES, _permute),
        (MOVES, _move),
        (POOLS, _pool),
        (REDUCTIONS, _reduce),
        (SOFTMAXES, _softmax),
        (ELEMENTWISE, _elementwise),
    )
    for names, rule in tables:
        if base in names:
            return rule
    return _elementwise if torch.Tag.pointwise in done.func.tags else _lock_all


def _lock_all(trace: Trace, done: Call) -> None:
    advice = _ADVICE.get(done.name, _UNKNOWN)
    for tensor in tensors_of((done.args, done.kwargs)):
        trace.lock(trace.planes(tensor), done.name, advice)


def _elementwise(trace: Trace, done: Call) -> None:
    inputs = [t for t in tensors_of((done.args, done.kwargs)) if t.ndim or trace.planes(t)]
    out = next(tensors_of(done.out))
    planes: Planes = ()
    for number, tensor in enumerate(inputs):
        mine = _aligned(trace.planes(tensor), out.ndim)
        if number == 0:
            planes = mine
        else:
            before = [_aligned_shape(t, out.ndim) for t in inputs[:number]]
            planes = _join(trace, done.name, planes, _broadcast_shape(before), mine, _aligned_shape(tensor, out.ndim))
    for result in tensors_of(done.out):
        trace.give(result, planes)
    if done.name in {"add", "add_"} and len(inputs) == 2:
        trace.meet(inputs[0], inputs[1])
        trace.meet(inputs[1], inputs[0])


def _join(
    trace: Trace, operation: str, first: Planes, first_shape: Sequence[int], second: Planes, second_shape: Sequence[int]
) -> Planes:
    """Unite the planes of two operands of an elementwise operation and return those of the result."""
    out = []
    for plane in first:
        partners = [p for p in second if varying(p) & varying(plane)]
        for partner in partners:
            trace.unite(plane, partner)
            plane = torch.where(plane < 0, partner, plane)
        if not partners and any(second_shape[d] > 1 for d in varying(plane)):
            trace.lock((plane,), operation, "it is combined with a tensor of fixed size that holds no channels")
        out.append(plane)
    for plane in second:
        if not any(varying(plane) & varying(p) for p in first):
            if any(first_shape[d] > 1 for d in varying(plane)):
                trace.lock((plane,), operation, "it is combined with a tensor of fixed size that holds no channels")
            out.append(plane)
    return tuple(out)


def _aligned(planes: Planes, ndim: int) -> Planes:
    return tuple(p.reshape((1,) * (ndim - p.ndim) + tuple(p.shape)) for p in planes)


def _aligned_shape(tensor: Tensor, ndim: int) -> tuple[int, ...]:
    return (1,) * (ndim - tensor.ndim) + tuple(tensor.shape)


def _broadcast_shape(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(max(sizes) for sizes in zip(*shapes, strict=True))


def _permute(trace: Trace, done: Call) -> None:
    trace.give(done.out, (done.func(p, *done.args[1:], **done.kwargs) for p in trace.planes(done.args[0])))


def _move(trace: Trace, done: Call) -> None:
    source = done.args[0]
    results = [[] for _ in tensors_of(done.out)]
    for plane in trace.planes(source):
        labels = plane.expand(source.shape)
        if done.name == "constant_pad_nd":
            moved = done.func(labels, done.args[1], -1)
        elif "view" in done.name:
            moved = labels.reshape(done.args[1])
        else:
            moved = done.func(labels, *tree_map(_to_cpu, done.args[1:]), **done.kwargs)
        for planes, part in zip(results, tensors_of(moved), strict=True):
            planes.append(part)
    for tensor, planes in zip(tensors_of(done.out), results, strict=True):
        trace.give(tensor, planes)
        if "view" in done.name and tensor.shape[-1:] == source.shape[-1:]:
            trace.hand_on(source, tensor)


def _to_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _concatenate(trace: Trace, done: Call) -> None:
    parts: Sequence[Tensor] = done.args[0]
    dim = (done.args[1] if len(done.args) > 1 else done.kwargs.get("dim", 0)) % done.out.ndim
    across: Planes | None = None
    for part in parts:
        other = tuple(p for p in trace.planes(part) if dim not in varying(p))
        shape = [1 if d == dim else size for d, size in enumerate(part.shape)]
        across = other if across is None else _join(trace, done.name, across, shape, other, shape)
    along = [_single(trace, done, part, dim) for part in parts]
    planes = [*(across or ()), torch.cat(along, dim)] if any(bool((a >= 0).any()) for a in along) else across or ()
    trace.give(done.out, planes)


def _single(trace: Trace, done: Call, part: Tensor, dim: int) -> Tensor:
    """Labels of one part along the dimension of concatenation, -1 where there are none."""
    shape = [size if d == dim else 1 for d, size in enumerate(part.shape)]
    planes = [p for p in trace.planes(part) if dim in varying(p)]
    if len(planes) == 1 and varying(planes[0]) == {dim}:
        return planes[0]
    trace.lock(planes, done.name, "the parts of this concatenation carry their channels in several dimensions")
    return torch.full(shape, -1)


def _pool(trace: Trace, done: Call) -> None:
    source = done.args[0]
    spatial = set(range(2, source.ndim)) if source.ndim > 2 else {source.ndim - 1}
    kept = [p for p in trace.planes(source) if not varying(p) & spatial]
    trace.lock((p for p in trace.planes(source) if varying(p) & spatial), done.name, _UNKNOWN)
    for tensor in tensors_of(done.out):
        trace.give(tensor, kept)


def _reduce(trace: Trace, done: Call) -> None:
    source, out = done.args[0], next(tensors_of(done.out))
    given = done.args[1] if len(done.args) > 1 else done.kwargs.get("dim")
    if not isinstance(given, int | list | tuple) or (not isinstance(given, int) and not given):
        given = list(range(source.ndim))
    dims = {d % source.ndim for d in ([given] if isinstance(given, int) else given)}
    mixed = [p for p in trace.planes(source) if varying(p) & dims]
    trace.lock(mixed, done.name, "a reduction over the channels changes when one is removed")
    for plane in trace.planes(source):
        if not varying(plane) & dims:
            small = plane if out.ndim == source.ndim else plane.squeeze(tuple(sorted(dims)))
            for tensor in tensors_of(done.out):
                trace.give(tensor, (*trace.planes(tensor), small))


def _softmax(trace: Trace, done: Call) -> None:
    source, dim = done.args[0], done.args[1] % done.args[0].ndim
    trace.lock((p for p in trace.planes(source) if dim in varying(p)), done.name, _UNKNOWN)
    trace.give(done.out, (p for p in trace.planes(source) if dim not in varying(p)))


def _batch_norm(trace: Trace, done: Call) -> None:
    source, *affine = done.args[:5]
    out = next(tensors_of(done.out))
    planes = trace.planes(source)
    for tensor in (t for t in affine if isinstance(t, Tensor)):
        own = _vectors(trace.planes(tensor), out.ndim)
        planes = _join(trace, done.name, planes, source.shape, own, [1, tensor.numel()] + [1] * (out.ndim - 2))
    trace.give(out, planes)
    mean = affine[2]
    name = trace.name_of(mean) if isinstance(mean, Tensor) else None
    if name is not None:
        trace.hand_on(source, out, norm=name.rpartition(".")[0])


def _convolution(trace: Trace, done: Call) -> None:
    source, weight, bias = done.args[:3]
    transposed, groups = bool(done.args[6]), int(done.args[8])
    trace.contract(trace.name_of(weight), done)
    if transposed:
        _lock_all(trace, done)
        return
    outer, inner = (tuple(p for p in trace.planes(weight) if varying(p) == {dim}) for dim in (0, 1))
    channels = tuple(p for p in trace.planes(source) if varying(p) == {1})
    trace.lock((p for p in trace.planes(source) if varying(p) - {1}), done.name, _SPREAD)
    if groups > 1:
        _unite_groups(trace, done.name, channels, outer, groups)
        trace.lock(inner, done.name, "the width inside a group is fixed; whole groups are removed")
    else:
        _unite_or_lock(trace, done.name, channels, inner)
    trace.give(done.out, _plus_bias(trace, done, _vectors(outer, done.out.ndim), bias))


def _vectors(planes: Planes, ndim: int) -> Planes:
    """One-dimensional planes along dimension 1 of `ndim` dimensions."""
    return tuple(p.reshape([-1 if d == 1 else 1 for d in range(ndim)]) for p in planes)


def _plus_bias(trace: Trace, done: Call, planes: Planes, bias: Any) -> Planes:
    if not isinstance(bias, Tensor):
        return planes
    own = _vectors(trace.planes(bias), done.out.ndim)
    shape = [1, bias.numel()] + [1] * (done.out.ndim - 2)
    return _join(trace, done.name, planes, shape, own, shape)


def _unite_or_lock(trace: Trace, operation: str, first: Planes, second: Planes) -> None:
    """Unite what is contracted over; where one side has no labels the other side stays."""
    for plane in first:
        for partner in second:
            trace.unite(plane, partner)
    if not (first and second):
        trace.lock((*first, *second), operation, _FIXED)


def _unite_groups(trace: Trace, operation: str, channels: Planes, outer: Planes, groups: int) -> None:
    """All inputs and outputs of one group of a grouped convolution go together."""
    if not (channels and outer):
        trace.lock((*channels, *outer), operation, _FIXED)
        return
    made = outer[0].reshape(groups, -1)
    for plane in (channels[0].reshape(groups, -1), made):
        trace.unite(plane, made[:, :1])
    trace.lock((p[p >= 0] for p in channels if bool((p < 0).any())), operation, _FIXED)


def _product(trace: Trace, done: Call) -> None:
    left, right = done.args[-2:] if done.name.startswith("b") or done.name == "mm" else done.args[1:3]
    trace.contract(trace.name_of(right), done)
    rows, keys_left = _split(trace, done.name, trace.planes(left), left.ndim - 1)
    columns, keys_right = _split(trace, done.name, trace.planes(right), right.ndim - 2)
    _unite_or_lock(trace, done.name, keys_left, tuple(p.transpose(-1, -2) for p in keys_right))
    planes = (*rows, *columns)
    if done.name == "addmm":
        planes = _plus_bias(trace, done, planes, done.args[0])
    trace.give(done.out, planes)


def _split(trace: Trace, operation: str, planes: Planes, contracted: int) -> tuple[Planes, Planes]:
    """Planes beside the contracted dimension, and planes along it alone; mixed ones are locked."""
    trace.lock((p for p in planes if contracted in varying(p) and len(varying(p)) > 1), operation, _SPREAD)
    beside = tuple(p for p in planes if contracted not in varying(p))
    return beside, tuple(p for p in planes if varying(p) == {contracted})
