"""The tensors in the file of a pruned network: choosing them, checking them, and loading them into a network."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from scionet.errors import CheckpointError
from scionet.network.calling import state_of
from scionet.network.checkpoints.manifest import Manifest
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import install, kept_entries
from scionet.network.surgery.gates import plan_gates

Shapes = Mapping[str, tuple[int, ...]]


def layout(
    pruned: nn.Module, plan: Plan, sites: Sites
) -> tuple[list[str], dict[str, str], dict[str, dict[int, tuple[int, ...]]]]:
    """The tensors to store, the tied ones, and the dense entries that were kept.

    Buffers outside the state dict are stored too: they may have been cut, replaced or converted to another type.

    Returns:
        The names to store; the stored name of each tied tensor; and per tensor and dimension that shrank, the kept
        entries of the dense tensor.

    Raises:
        CheckpointError: If `pruned` has another architecture, or state other than parameters and buffers.
        InvalidSetting: If the plan belongs to another network.
    """
    plan_gates(sites, plan)
    kept = kept_entries(sites, plan)
    state = state_of(pruned)
    unknown = (state.keys() ^ sites.shapes.keys()) | (pruned.state_dict().keys() - state.keys())
    if unknown:
        raise CheckpointError(
            f"{abridged(unknown)}: in the network or in the sites but not in both, or neither a parameter nor a "
            "buffer; give the network that cut() returned, with the sites that cut() was given"
        )
    first: dict[int, str] = {}
    stored = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    tied = {name: home for name, home in stored.items() if name != home}
    entries = {name: {dim: tuple(e.tolist()) for dim, e in dims.items()} for name, dims in kept.items()}
    return list(first.values()), tied, entries | {n: entries[home] for n, home in tied.items() if home in entries}


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


def refuse_other_architecture(path: str | Path, manifest: Manifest, model: nn.Module) -> None:
    """Compare a dense network with the dense shapes in the file.

    Raises:
        CheckpointError: If names, shapes or ties differ, or tensors have no memory yet.
    """
    state = state_of(model)
    if any(is_lazy(tensor) or tensor.is_meta for tensor in state.values()):
        raise CheckpointError(
            "model has tensors without memory (meta device or lazy layers); build it on a real device"
        )
    names = manifest.shapes.keys() | model.state_dict().keys()
    found = {name: tuple(state[name].shape) for name in names & state.keys()}
    found |= {name: manifest.shapes[name] for name in _not_grown_yet(model, manifest)}
    absent = [
        f"{name} is in its state dict, but is not a tensor" for name in names - manifest.shapes.keys() - found.keys()
    ]
    differ = [*absent, *_differences(found, manifest.shapes, "in the file"), *_new_ties(manifest, state)]
    if differ:
        raise CheckpointError(
            f"{path} contains a pruned {manifest.model}; the given {type(model).__name__} has another architecture "
            f"(dense shapes: {abridged(differ)}). Pass a fresh, unpruned instance built with the original arguments"
        )


def fill(model: nn.Module, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Replace the tensors of a dense network in place by the stored ones, in the stored types, on its own devices."""
    for name, home in manifest.tied.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, state_of(model)[home])
    state = state_of(model)
    shrunk = {name: tensor for name, tensor in tensors.items() if tensor.shape != state[name].shape}
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].data = state[name].data.to(tensor.dtype)  # since install keeps the types of the network
            if name not in shrunk:
                state[name].copy_(tensor)
    install(model, shrunk, manifest.plan)


def transient_buffers(model: nn.Module) -> set[str]:
    """Names of the buffers outside the state dict. A forward pass may let them grow, as caches of positions do."""
    return {name for name, _ in model.named_buffers(remove_duplicate=False)} - model.state_dict().keys()


def _not_grown_yet(model: nn.Module, manifest: Manifest) -> list[str]:
    """Buffers outside the state dict that no plan cut, and that are nowhere larger than in the file."""
    state, uncut = state_of(model), manifest.shapes.keys() - manifest.kept.keys()
    return [
        name
        for name in transient_buffers(model) & uncut
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
