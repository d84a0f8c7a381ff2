"""The tensors in the file of a pruned network: choosing them, checking them, and loading them into a network."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from scionet.errors import CheckpointError, InvalidSetting, PruneError
from scionet.network.branches import remaining
from scionet.network.calling import state_of
from scionet.network.checkpoints.manifest import Manifest
from scionet.network.lineage import Lineage, note_lineage
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import install, lineage_after
from scionet.torch_internals import own_buffers, own_parameters

Shapes = Mapping[str, tuple[int, ...]]

_SMALL, _INFLATION = 2**26, 100
"""Numbers in a dense network that is always built; how many times as many as are stored a larger one may have."""


def layout(pruned: nn.Module, plan: Plan, sites: Sites) -> tuple[list[str], dict[str, str], Lineage]:
    """The tensors to store, the tied ones, and the lineage of the network.

    Buffers outside the state dict are stored too: they may have been cut, replaced or converted to another type.

    Returns:
        The names to store; the stored name of each tied tensor; and the lineage, with an entry for every name.

    Raises:
        CheckpointError: If `pruned` has another architecture, or state other than parameters and buffers, or was pruned
            before in a way that no file can describe.
        InvalidSetting: If the plan belongs to another network or other weights.
    """
    plan.refuse_other_sites(sites)
    if plan.dense_hash and plan.dense_hash != sites.dense_hash:
        raise InvalidSetting(
            "the plan was made for other weights than the sites; give plan and sites of the same pruning"
        )
    state, expected = state_of(pruned), remaining(sites, plan.dropped).shapes
    unknown = (state.keys() ^ expected.keys()) | (pruned.state_dict().keys() - state.keys())
    if unknown:
        raise CheckpointError(
            f"{abridged(unknown)}: in the network or in the sites but not in both, or neither a parameter nor a "
            "buffer; give the network that cut() returned, with the sites that cut() was given"
        )
    lineage = lineage_after(plan, sites)
    lineage.refuse_broken()
    first: dict[int, str] = {}
    stored = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    tied = {name: home for name, home in stored.items() if name != home}
    entries = {**lineage.kept, **{name: lineage.kept[home] for name, home in tied.items() if home in lineage.kept}}
    grown = {name: tuple(state[name].shape) for name in _transient_buffers(pruned) - entries.keys()}
    return list(first.values()), tied, replace(lineage, kept=entries, shapes={**lineage.shapes, **grown})


def refuse_disagreement(what: str, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Compare the shapes of pruned tensors with those that the plan leaves.

    Args:
        what: What the tensors belong to, for the error message.
        manifest: The manifest with the plan.
        tensors: The pruned tensors.

    Raises:
        CheckpointError: If they differ.
    """
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differ = _differences(found, manifest.pruned_shapes, "by the plan")
    if differ:
        raise CheckpointError(
            f"{what}: plan and weights disagree ({abridged(differ)}); use weights and plan of the same network"
        )


def refuse_inflation(path: str | Path, manifest: Manifest) -> None:
    """Refuse a dense network that is large, and out of all proportion to its pruned one.

    Raises:
        CheckpointError: If it is.
    """
    dense = sum(prod(shape) for name, shape in manifest.dense_shapes.items() if name not in manifest.tied)
    stored = sum(map(prod, manifest.pruned_shapes.values()))
    if dense > max(_SMALL, _INFLATION * stored):
        raise CheckpointError(
            f"{path} stores {stored:,} numbers of a network that had {dense:,}; at most {_INFLATION} times as many are "
            "built for a file. Pass model, a fresh instance, or trust_factory=True if you trust the file"
        )


def refuse_missing_memory(model: nn.Module) -> None:
    """Refuse a network on the meta device.

    Raises:
        CheckpointError: If the network has tensors without memory.
    """
    if any(tensor.is_meta for tensor in state_of(model).values()):
        raise CheckpointError("model has tensors without memory (meta device); build it on a real device")


def refuse_other_architecture(path: str | Path, manifest: Manifest, model: nn.Module) -> None:
    """Compare a dense network, which may be on the meta device, with the dense shapes in the file.

    Raises:
        CheckpointError: If names, shapes or ties differ, or a layer is lazy.
    """
    state = state_of(model)
    if lazy := [name for name, tensor in state.items() if is_lazy(tensor)]:
        raise CheckpointError(f"model has lazy layers without memory ({abridged(lazy)}); call it once before")
    shapes = manifest.dense_shapes
    names = shapes.keys() | model.state_dict().keys()
    found = {name: tuple(state[name].shape) for name in names & state.keys()}
    found |= {name: shapes[name] for name in _not_grown_yet(model, manifest)}
    absent = [f"{name} is in its state dict, but is not a tensor" for name in names - shapes.keys() - found.keys()]
    differ = [*absent, *_differences(found, shapes, "in the file"), *_new_ties(manifest, state)]
    if differ:
        raise CheckpointError(
            f"{path} contains a pruned {manifest.model}; the given {type(model).__name__} has another architecture "
            f"(dense shapes: {abridged(differ)}). Pass a fresh, unpruned instance built with the original arguments"
        )


def refuse_other_types(path: str | Path, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse an instance that was converted to another floating-point type than that of the file.

    An instance in torch's default type is as it was built, and takes the types of the file.

    Raises:
        CheckpointError: If a floating-point tensor has neither type.
    """
    state, default = state_of(model), torch.get_default_dtype()
    differ = [
        f"{name} is {state[name].dtype} here, {tensor.dtype} in the file"
        for name, tensor in tensors.items()
        if name in state and state[name].is_floating_point() and state[name].dtype not in (tensor.dtype, default)
    ]
    if differ:
        raise CheckpointError(
            f"{path}: the given {type(model).__name__} was converted to another type ({abridged(differ)}); pass an "
            "instance as it was built, or one in the types of the file, and convert what load_pruned returns, with "
            ".to(dtype)"
        )


def fill(path: str | Path, model: nn.Module, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Replace the tensors of a dense network in place by the stored ones, in the stored types, on its own devices.

    Raises:
        CheckpointError: If the plans or the tensors do not fit. The network is as it was then.
    """
    with _restored_on_error(model):
        try:
            _fill(model, manifest, tensors)
        except PruneError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except Exception as error:  # a damaged plan can reach attributes of any module
            raise CheckpointError(
                f"{path} does not fit the given {type(model).__name__} ({type(error).__name__}: {error}); pass a "
                "fresh, unpruned instance, or save the file again"
            ) from error


def _fill(model: nn.Module, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    for name, home in manifest.tied.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, state_of(model)[home])
    state = state_of(model)
    shrunk = {n: tensor for n, tensor in tensors.items() if n not in state or tensor.shape != state[n].shape}
    with torch.no_grad():
        for name in tensors.keys() & state.keys():
            state[name].data = state[name].data.to(tensors[name].dtype)  # since install keeps the types of the network
        install(model, shrunk, manifest.lineage.prunings)
        note_lineage(model, manifest.lineage)
        for name in tensors.keys() - shrunk.keys():  # at the end, since this alone overwrites what cannot be restored
            state[name].copy_(tensors[name])


@contextmanager
def _restored_on_error(model: nn.Module) -> Iterator[None]:
    """Restore classes, attributes, parameters and buffers of all modules if the block fails.

    The tensors' data are not copied: what is written into them in place stays.
    """
    modules = [(module, type(module), dict(vars(module))) for module in model.modules()]
    registries: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (held, dict(held)) for m, _, _ in modules for held in (own_parameters(m), own_buffers(m))
    ]
    data = [(tensor, tensor.data) for tensor in state_of(model).values()]
    try:
        yield
    except BaseException:
        for module, kind, attributes in modules:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
        for held, before in registries:
            held.clear()
            held.update(before)
        for tensor, before in data:
            tensor.data = before
        raise


def _transient_buffers(model: nn.Module) -> set[str]:
    """Names of the buffers outside the state dict. A forward pass may let them grow, as caches of positions do."""
    return {name for name, _ in model.named_buffers(remove_duplicate=False)} - model.state_dict().keys()


def _not_grown_yet(model: nn.Module, manifest: Manifest) -> list[str]:
    """Buffers outside the state dict that no plan cut, and that are nowhere larger than in the file."""
    state, uncut = state_of(model), manifest.dense_shapes.keys() - manifest.lineage.kept.keys()
    return [
        name
        for name in _transient_buffers(model) & uncut
        if state[name].ndim == len(manifest.shapes[name])
        and all(here <= there for here, there in zip(state[name].shape, manifest.shapes[name], strict=True))
    ]


def abridged(items: Iterable[str]) -> str:
    """The first four items in alphabetical order, and the number of the others."""
    listed = sorted(items)
    return "; ".join(listed[:4]) + (f"; and {len(listed) - 4} more" if len(listed) > 4 else "")


def _differences(found: Shapes, expected: Shapes, where: str) -> list[str]:
    """A text for each tensor that is missing on one side or has another shape."""
    return [
        f"{name} is {found.get(name, 'missing')}, {where} {expected.get(name, 'missing')}"
        for name in found.keys() | expected.keys()
        if found.get(name) != expected.get(name)
    ]


def _new_ties(manifest: Manifest, state: Mapping[str, Tensor]) -> list[str]:
    """A text for each pair of tensors that are tied in the network and separate in the file."""
    separate = [name for name in manifest.pruned_shapes if name in state]
    first: dict[int, str] = {}
    homes = {name: first.setdefault(id(state[name]), name) for name in separate}
    return [f"{name} and {home} are tied here and separate in the file" for name, home in homes.items() if name != home]
