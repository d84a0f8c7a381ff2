"""The effect of each tensor operation on channels: the table of rules behind `discover`.

An operation can move tags (then it is applied to the tag planes themselves), unite the tags of its operands, contract
over them, or reduce or pool along other dimensions. Any other operation locks them. To support a new operation, add its
name to one of the tables.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scionet.network.calling import tensors_of
from scionet.network.discovery.contraction_rules import batch_norm, convolution, product
from scionet.network.discovery.elementwise_rules import (
    ADVICE,
    UNKNOWN,
    aligned,
    aligned_shape,
    join,
    lock_all,
    mix,
)
from scionet.network.discovery.trace_records import Call, Planes
from scionet.network.discovery.tracing import Trace, compact, varying
from scionet.torch_internals import tree_map

MOVES = frozenset(
    "view _unsafe_view reshape slice select split split_with_sizes unbind expand squeeze unsqueeze permute transpose t "
    "alias detach lift_fresh constant_pad_nd pixel_shuffle pixel_unshuffle roll flip repeat index index_select narrow "
    "unfold diagonal movedim".split()
)
RESHAPES = frozenset("view _unsafe_view reshape pixel_shuffle pixel_unshuffle".split())
BY_POSITION = frozenset("slice split split_with_sizes narrow roll index index_select unfold diagonal".split())
ELEMENTWISE = frozenset(
    "clone contiguous copy copy_ _to_copy dropout native_dropout hardswish hardsigmoid silu mish gelu elu celu selu "
    "leaky_relu prelu _prelu_kernel softplus hardtanh relu6 fill zero zeros_like ones_like empty_like full_like".split()
)
POOLS = frozenset(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d "
    "upsample_bicubic2d upsample_linear1d upsample_trilinear3d upsample_nearest3d _upsample_bilinear2d_aa "
    "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d grid_sampler_2d".split()
)
REDUCTIONS = frozenset("mean sum amax amin max min var std prod linalg_vector_norm norm logsumexp".split())
SOFTMAXES = frozenset("_softmax _safe_softmax _log_softmax cumsum".split())
BATCH_NORMS = frozenset(
    "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit_no_training "
    "_native_batch_norm_legit _batch_norm_no_update".split()
)
FACTORIES = frozenset("new_zeros new_ones new_full new_empty".split())
PRODUCTS = frozenset("mm addmm bmm baddbmm".split())


def apply(trace: Trace, op: Call) -> None:
    """Propagate the tags of an operation's inputs to its outputs; lock those that its rule cannot follow."""
    try:
        _rule_for(trace, op)(trace, op)
    except Exception as error:  # an overload or argument that the rule does not know
        lock_all(trace, op, f"this form of the operation cannot be followed ({error}); the channels stay whole")


def _rule_for(trace: Trace, op: Call) -> Callable[[Trace, Call], None]:
    name = op.name if op.name.startswith("_") else op.name.rstrip("_")
    if name == "convolution":
        return convolution
    if name in PRODUCTS:
        return product
    if not any(trace.planes(t) for t in tensors_of((op.args, op.kwargs))):
        return _ignore
    if op.name == "as_strided_":
        return _restride
    if op.name in MOVES:  # by the full name: in-place variants change the shape of the tensor that they read
        return _move
    tables: tuple[tuple[frozenset[str], Callable[[Trace, Call], None]], ...] = (
        (BATCH_NORMS, batch_norm),
        (frozenset({"cat"}), _concatenate),
        (frozenset({"glu"}), _gated_linear_unit),
        (FACTORIES, _ignore),
        (POOLS, _pool),
        (REDUCTIONS, _reduce),
        (SOFTMAXES, _softmax),
        (frozenset({"native_layer_norm"}), _layer_norm),
        (ELEMENTWISE, _elementwise),
    )
    for names, rule in tables:
        if name in names:
            return rule
    return _elementwise if torch.Tag.pointwise in op.func.tags else lock_all


def _ignore(trace: Trace, op: Call) -> None:
    """The result does not depend on the channels."""


def _restride(trace: Trace, op: Call) -> None:
    """New strides in place, supported if they leave every entry where it is.

    Pooling to one pixel sets the strides of the channels-last format, which means the same for a single pixel.
    """
    tensor, sizes, strides, *offset = op.args
    expected, dense = 1, not offset
    for size, stride in reversed([pair for pair in zip(sizes, strides, strict=True) if pair[0] > 1]):
        dense &= stride == expected
        expected *= size
    same = all(
        plane.ndim == len(sizes) and all(n in (1, size) for n, size in zip(plane.shape, sizes, strict=True))
        for plane in trace.planes(tensor)
    )
    if not (dense and same and max(sizes[2:], default=1) == 1):
        lock_all(trace, op)


def _elementwise(trace: Trace, op: Call) -> None:
    inputs = [t for t in tensors_of((op.args, op.kwargs)) if t.ndim or trace.planes(t)]
    out = next(tensors_of(op.out))
    planes: Planes = ()
    shape = (1,) * out.ndim
    for tensor in inputs:
        other = aligned_shape(tensor, out.ndim)
        planes = join(trace, op.name, planes, shape, aligned(trace.planes(tensor), out.ndim), other)
        shape = tuple(map(max, shape, other))
    for result in tensors_of(op.out):
        trace.set_planes(result, planes, op.name)
    if op.name in {"add", "add_"} and len(inputs) == 2:
        trace.record_sum(inputs[0], inputs[1])
        trace.record_sum(inputs[1], inputs[0])


def _move(trace: Trace, op: Call) -> None:
    source, *rest = op.args
    results: list[list[Tensor]] = [[] for _ in tensors_of(op.out)]
    for plane in trace.planes(source):
        parts = _parts(plane, source, rest, op)
        if op.name in RESHAPES:
            trace.record_grid(parts[0], op.name)
        elif op.name in BY_POSITION and not all(torch.equal(part.flatten(), plane.flatten()) for part in parts):
            parts = _parts(_with_positions(trace, plane, parts, op), source, rest, op)
        for planes, part in zip(results, parts, strict=True):
            planes.append(part)
    for tensor, planes in zip(tensors_of(op.out), results, strict=True):
        trace.set_planes(tensor, planes, op.name)
        if "view" in op.name and tensor.shape[-1:] == source.shape[-1:]:
            trace.record_same_origin(source, tensor)
    for tensor in tensors_of((rest, op.kwargs)):
        trace.lock(trace.planes(tensor), op.name, UNKNOWN)


def _parts(plane: Tensor, source: Tensor, rest: Sequence[Any], op: Call) -> list[Tensor]:
    """The tag plane of each result."""
    return [compact(part) for part in tensors_of(_moved(plane, source, rest, op))]


def _moved(plane: Tensor, source: Tensor, rest: Sequence[Any], op: Call) -> Any:
    """The operation applied to the tags of its input."""
    if op.name == "constant_pad_nd":
        last = source.ndim - 1
        pads = [size if plane.shape[last - n // 2] > 1 else 0 for n, size in enumerate(rest[0])]
        return op.func(plane, pads, -1)
    tags = plane.expand(source.shape)
    if "view" in op.name:
        return tags.reshape(rest[0])
    arguments = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, rest)
    return op.func(tags, *arguments, **op.kwargs)


def _with_positions(trace: Trace, plane: Tensor, parts: Sequence[Tensor], op: Call) -> Tensor:
    """The plane of an operation that picks channels by position, after uniting tags so that positions stay right.

    Channels that are divided into equal parts must shrink alike in each part. Channels in rows are removed in whole
    rows. All others are locked.
    """
    sizes, dim = {part.numel() for part in parts}, op.argument("dim")
    if len(varying(plane)) > 1 and isinstance(dim, int):
        return trace.merge(plane, {dim % plane.ndim}, op.name)
    equal = len(sizes) == 1 and plane.numel() % max(sizes) == 0 and len(varying(plane)) == 1
    if equal and op.name in {"slice", "split", "split_with_sizes"}:
        trace.record_grid(plane.reshape(-1, max(sizes)), op.name)
    else:
        trace.lock((plane,), op.name, "channels are picked out by their position, which changes when one is removed")
    return plane


def _gated_linear_unit(trace: Trace, op: Call) -> None:
    source = op.args[0]
    dim = op.argument("dim") % source.ndim
    planes: Planes = ()
    for plane in trace.planes(source):
        first, second = plane.chunk(2, dim) if dim in varying(plane) else (plane, plane)
        trace.unite(first, second, op.name)
        planes = (*planes, first)
    trace.set_planes(op.out, planes, op.name)


def _concatenate(trace: Trace, op: Call) -> None:
    parts: Sequence[Tensor] = op.args[0]
    dim = op.argument("dim") % op.out.ndim
    across: Planes | None = None
    for part in parts:
        other = tuple(p for p in trace.planes(part) if dim not in varying(p))
        shape = [1 if d == dim else size for d, size in enumerate(part.shape)]
        across = other if across is None else join(trace, op.name, across, shape, other, shape)
    along = [_concatenated_tags(trace, op, part, dim) for part in parts]
    planes = [*(across or ()), torch.cat(along, dim)] if any(bool((a >= 0).any()) for a in along) else across or ()
    trace.set_planes(op.out, planes, op.name)


def _concatenated_tags(trace: Trace, op: Call, part: Tensor, dim: int) -> Tensor:
    """Tags of one part along the dimension of concatenation, -1 where there are none."""
    shape = [size if d == dim else 1 for d, size in enumerate(part.shape)]
    planes = [p for p in trace.planes(part) if dim in varying(p)]
    if len(planes) == 1 and varying(planes[0]) == {dim}:
        return planes[0]
    trace.lock(planes, op.name, "the parts of this concatenation have their channels in several dimensions")
    return torch.full(shape, -1)


def _pool(trace: Trace, op: Call) -> None:
    source, *rest = op.args
    found = re.search(r"(\d)d", op.name)
    spatial = set(range(source.ndim - int(found[1] if found else 0), source.ndim))
    kept = mix(trace, op.name, trace.planes(source), spatial)
    for tensor in tensors_of((rest, op.kwargs)):
        trace.lock(trace.planes(tensor), op.name, UNKNOWN)
    for tensor in tensors_of(op.out):
        trace.set_planes(tensor, kept, op.name)


def _reduce(trace: Trace, op: Call) -> None:
    source, out = op.args[0], next(tensors_of(op.out))
    given = op.argument("dim")
    given = [given] if isinstance(given, int) else given or range(source.ndim)
    dims = {d % source.ndim for d in given}
    advice = "a reduction over the channels changes when one is removed"
    kept = mix(trace, op.name, trace.planes(source), dims, advice)
    small = kept if out.ndim == source.ndim else [p.squeeze(tuple(sorted(dims))) for p in kept]
    for tensor in tensors_of(op.out):
        trace.set_planes(tensor, small, op.name)


def _softmax(trace: Trace, op: Call) -> None:
    source = op.args[0]
    dim = op.argument("dim") % source.ndim
    trace.set_planes(op.out, mix(trace, op.name, trace.planes(source), {dim}), op.name)


def _layer_norm(trace: Trace, op: Call) -> None:
    source, shape, *affine = op.args[:4]
    dims = set(range(source.ndim - len(shape), source.ndim))
    for tensor in affine:
        trace.lock(trace.planes(tensor), op.name, ADVICE[op.name])
    planes = mix(trace, op.name, trace.planes(source), dims, ADVICE[op.name])
    for tensor in tensors_of(op.out):
        trace.set_planes(tensor, planes, op.name)
