"""What each tensor operation does to channels: the table behind `discover`.

An operation moves labels (and is done to the label planes themselves), unites the labels that meet in it, contracts
over them, reduces or pools beside them, or, if it is none of these, locks them. A new operation is one line in a table.
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
    argument,
    join,
    lock_all,
    mixed,
)
from scionet.network.discovery.tracing import Call, Planes, Trace, compact, varying
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


def apply(trace: Trace, done: Call) -> None:
    """Hand the labels of an operation's inputs on to its outputs; what a rule cannot follow stays whole."""
    try:
        _rule_for(trace, done)(trace, done)
    except Exception as error:  # an overload or argument that the rule does not know
        lock_all(trace, done, f"this form of the operation cannot be followed ({error}); the channels stay whole")


def _rule_for(trace: Trace, done: Call) -> Callable[[Trace, Call], None]:
    name = done.name if done.name.startswith("_") else done.name.rstrip("_")
    if name == "convolution":
        return convolution
    if name in PRODUCTS:
        return product
    if not any(trace.planes(t) for t in tensors_of((done.args, done.kwargs))):
        return _ignore
    if done.name == "as_strided_":
        return _restride
    if done.name in MOVES:  # those that work in place change the shape of what they read
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
    return _elementwise if torch.Tag.pointwise in done.func.tags else lock_all


def _ignore(trace: Trace, done: Call) -> None:
    """Nothing of the channels goes into the result."""


def _restride(trace: Trace, done: Call) -> None:
    """New strides in place. Pooling to one pixel writes channels-last ones, which leave every entry where it was."""
    tensor, sizes, strides, *offset = done.args
    expected, dense = 1, not offset
    for size, stride in reversed([pair for pair in zip(sizes, strides, strict=True) if pair[0] > 1]):
        dense &= stride == expected
        expected *= size
    same = all(
        plane.ndim == len(sizes) and all(n in (1, size) for n, size in zip(plane.shape, sizes, strict=True))
        for plane in trace.planes(tensor)
    )
    if not (dense and same and max(sizes[2:], default=1) == 1):
        lock_all(trace, done)


def _elementwise(trace: Trace, done: Call) -> None:
    inputs = [t for t in tensors_of((done.args, done.kwargs)) if t.ndim or trace.planes(t)]
    out = next(tensors_of(done.out))
    planes: Planes = ()
    shape = (1,) * out.ndim
    for tensor in inputs:
        other = aligned_shape(tensor, out.ndim)
        planes = join(trace, done.name, planes, shape, aligned(trace.planes(tensor), out.ndim), other)
        shape = tuple(map(max, shape, other))
    for result in tensors_of(done.out):
        trace.give(result, planes, done.name)
    if done.name in {"add", "add_"} and len(inputs) == 2:
        trace.meet(inputs[0], inputs[1])
        trace.meet(inputs[1], inputs[0])


def _move(trace: Trace, done: Call) -> None:
    source, *rest = done.args
    results: list[list[Tensor]] = [[] for _ in tensors_of(done.out)]
    for plane in trace.planes(source):
        parts = _parts(plane, source, rest, done)
        if done.name in RESHAPES:
            trace.spread(parts[0], done.name)
        elif done.name in BY_POSITION and not all(torch.equal(part.flatten(), plane.flatten()) for part in parts):
            parts = _parts(_with_positions(trace, plane, parts, done), source, rest, done)
        for planes, part in zip(results, parts, strict=True):
            planes.append(part)
    for tensor, planes in zip(tensors_of(done.out), results, strict=True):
        trace.give(tensor, planes, done.name)
        if "view" in done.name and tensor.shape[-1:] == source.shape[-1:]:
            trace.hand_on(source, tensor)
    for tensor in tensors_of((rest, done.kwargs)):
        trace.lock(trace.planes(tensor), done.name, UNKNOWN)


def _parts(plane: Tensor, source: Tensor, rest: Sequence[Any], done: Call) -> list[Tensor]:
    """The label plane of each result."""
    return [compact(part) for part in tensors_of(_moved(plane, source, rest, done))]


def _moved(plane: Tensor, source: Tensor, rest: Sequence[Any], done: Call) -> Any:
    """The operation, done to the labels of its input."""
    if done.name == "constant_pad_nd":
        last = source.ndim - 1
        pads = [size if plane.shape[last - n // 2] > 1 else 0 for n, size in enumerate(rest[0])]
        return done.func(plane, pads, -1)
    labels = plane.expand(source.shape)
    if "view" in done.name:
        return labels.reshape(rest[0])
    arguments = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, rest)
    return done.func(labels, *arguments, **done.kwargs)


def _with_positions(trace: Trace, plane: Tensor, parts: Sequence[Tensor], done: Call) -> Tensor:
    """The plane of what is picked by position, after uniting what only together leaves the positions right.

    Equal parts of the channels must shrink alike. Of channels in rows the whole row goes. All others stay.
    """
    sizes, dim = {part.numel() for part in parts}, argument(done, "dim")
    if len(varying(plane)) > 1 and isinstance(dim, int):
        return trace.merge(plane, {dim % plane.ndim}, done.name)
    equal = len(sizes) == 1 and plane.numel() % max(sizes) == 0 and len(varying(plane)) == 1
    if equal and done.name in {"slice", "split", "split_with_sizes"}:
        trace.spread(plane.reshape(-1, max(sizes)), done.name)
    else:
        trace.lock((plane,), done.name, "channels are picked out by their position, which changes when one is removed")
    return plane


def _gated_linear_unit(trace: Trace, done: Call) -> None:
    source = done.args[0]
    dim = argument(done, "dim") % source.ndim
    planes: Planes = ()
    for plane in trace.planes(source):
        first, second = plane.chunk(2, dim) if dim in varying(plane) else (plane, plane)
        trace.unite(first, second, done.name)
        planes = (*planes, first)
    trace.give(done.out, planes, done.name)


def _concatenate(trace: Trace, done: Call) -> None:
    parts: Sequence[Tensor] = done.args[0]
    dim = argument(done, "dim") % done.out.ndim
    across: Planes | None = None
    for part in parts:
        other = tuple(p for p in trace.planes(part) if dim not in varying(p))
        shape = [1 if d == dim else size for d, size in enumerate(part.shape)]
        across = other if across is None else join(trace, done.name, across, shape, other, shape)
    along = [_single(trace, done, part, dim) for part in parts]
    planes = [*(across or ()), torch.cat(along, dim)] if any(bool((a >= 0).any()) for a in along) else across or ()
    trace.give(done.out, planes, done.name)


def _single(trace: Trace, done: Call, part: Tensor, dim: int) -> Tensor:
    """Labels of one part along the dimension of concatenation, -1 where there are none."""
    shape = [size if d == dim else 1 for d, size in enumerate(part.shape)]
    planes = [p for p in trace.planes(part) if dim in varying(p)]
    if len(planes) == 1 and varying(planes[0]) == {dim}:
        return planes[0]
    trace.lock(planes, done.name, "the parts of this concatenation carry their channels in several dimensions")
    return torch.full(shape, -1)


def _pool(trace: Trace, done: Call) -> None:
    source, *rest = done.args
    found = re.search(r"(\d)d", done.name)
    spatial = set(range(source.ndim - int(found[1] if found else 0), source.ndim))
    kept = mixed(trace, done.name, trace.planes(source), spatial)
    for tensor in tensors_of((rest, done.kwargs)):
        trace.lock(trace.planes(tensor), done.name, UNKNOWN)
    for tensor in tensors_of(done.out):
        trace.give(tensor, kept, done.name)


def _reduce(trace: Trace, done: Call) -> None:
    source, out = done.args[0], next(tensors_of(done.out))
    given = argument(done, "dim")
    given = [given] if isinstance(given, int) else given or range(source.ndim)
    dims = {d % source.ndim for d in given}
    advice = "a reduction over the channels changes when one is removed"
    kept = mixed(trace, done.name, trace.planes(source), dims, advice)
    small = kept if out.ndim == source.ndim else [p.squeeze(tuple(sorted(dims))) for p in kept]
    for tensor in tensors_of(done.out):
        trace.give(tensor, small, done.name)


def _softmax(trace: Trace, done: Call) -> None:
    source = done.args[0]
    dim = argument(done, "dim") % source.ndim
    trace.give(done.out, mixed(trace, done.name, trace.planes(source), {dim}), done.name)


def _layer_norm(trace: Trace, done: Call) -> None:
    source, shape, *affine = done.args[:4]
    dims = set(range(source.ndim - len(shape), source.ndim))
    for tensor in affine:
        trace.lock(trace.planes(tensor), done.name, ADVICE[done.name])
    planes = mixed(trace, done.name, trace.planes(source), dims, ADVICE[done.name])
    for tensor in tensors_of(done.out):
        trace.give(tensor, planes, done.name)
