"""Saving and loading a pruned network: one safetensors file with the plan as JSON in its metadata, without pickle.

The file contains every parameter and buffer of the pruned network (tied ones once) and a manifest, which lists the
entries of the dense tensors that were kept. To load it, a fresh instance of the original class is needed, but neither a
forward pass nor data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scionet.errors import CheckpointError, InvalidSetting
from scionet.files.json_dataclasses import plain
from scionet.models.factory import find, made, weights_off
from scionet.models.untrusted import REGISTRIES, build_untrusted
from scionet.modes import plain_modes
from scionet.network.calling import Batch, state_of
from scionet.network.checkpoints.manifest import PRUNED, Manifest
from scionet.network.checkpoints.packing import (
    fill,
    layout,
    refuse_disagreement,
    refuse_inflation,
    refuse_missing_memory,
    refuse_other_architecture,
    refuse_other_types,
)
from scionet.network.checkpoints.records import input_record, inputs_of
from scionet.network.guard import refuse_unready
from scionet.network.plan import Plan
from scionet.network.sites import Sites


@plain_modes()
def save_pruned(
    path: str | Path,
    pruned: nn.Module,
    plan: Plan,
    sites: Sites,
    *,
    factory: str | None = None,
    factory_kwargs: Mapping[str, Any] | None = None,
    example_inputs: Batch | None = None,
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a pruned network, fine-tuned or not, as one ``.safetensors`` file. It is written completely or not at all.

    A network that was pruned more than once is saved with all its plans and loads into a fresh, dense instance, if
    scionet did each pruning of the whole network, in this process or before it was saved.

    Args:
        path: The file; its name ends in ``.safetensors``.
        pruned: The network that `cut` returned, or a fine-tuned one of the same structure.
        plan: The plan that it was cut to.
        sites: The dense network's sites.
        factory: The factory of the dense network as `scionet.models.factory.build` takes it (``timm:NAME``,
            ``torchvision:NAME``, ``scionet:NAME``, ``package.module:function``). With it, `load_pruned` needs no model.
        factory_kwargs: Arguments of the factory, JSON-able. They need no pretrained weights: the file has the weights.
        example_inputs: Inputs of the network; their shapes and types are recorded.
        extra: Anything else to record, JSON-able.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        CheckpointError: If the file exists or cannot be written. Also if the shapes of `pruned` are not those of the
            plan, it has state that safetensors cannot store, or no file can describe how it was pruned before.
        InvalidSetting: If `path` or `factory` is malformed, or the plan belongs to another network or other weights.
    """
    if factory is not None and not all(factory.partition(":")):
        raise InvalidSetting(
            f"factory must be timm:NAME, torchvision:NAME, scionet:NAME or package.module:function; given {factory!r}"
        )
    names, tied, lineage = layout(pruned, plan, sites)
    state = state_of(pruned)
    tensors = {name: state[name] for name in names}
    manifest = Manifest(
        lineage=lineage,
        tied=tied,
        model=f"{type(pruned).__module__}.{type(pruned).__qualname__}",
        factory=factory,
        factory_kwargs=dict(factory_kwargs or {}),
        inputs=None if example_inputs is None else inputs_of(input_record(example_inputs), "example_inputs"),
        versions=_versions(),
        extra=dict(extra or {}),
    )
    refuse_disagreement("the given network", manifest, tensors)
    return manifest.save(path, tensors, overwrite=overwrite)


@plain_modes()
def save_tuned(
    path: str | Path,
    tuned: nn.Module,
    source: str | Path,
    *,
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a network that was loaded from a file and fine-tuned, with the plan and the other records of that file.

    Args:
        path: The file; its name ends in ``.safetensors``.
        tuned: The network that `load_pruned` returned for `source`, with other weights.
        source: The file that it was loaded from.
        extra: Further records, JSON-able; they replace those of `source` under the same keys.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        CheckpointError: If `source` is not a file of a pruned network, `tuned` has another structure, or the file
            exists or cannot be written.
        InvalidSetting: If `path` is malformed.
    """
    manifest, state = Manifest.header(source), state_of(tuned)
    tensors = {name: state[name] for name in manifest.pruned_shapes.keys() & state.keys()}
    refuse_disagreement("the given network", manifest, tensors)
    updated = replace(manifest, versions=_versions(), extra={**manifest.extra, **(extra or {})})
    return updated.save(path, tensors, overwrite=overwrite)


@plain_modes()
def load_pruned(
    path: str | Path,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    strict: bool = True,
    trust_factory: bool = False,
) -> nn.Module:
    """Load a pruned network into a fresh instance of its original class.

    Nothing is unpickled, traced or run. Floating-point types are those of the file; devices and `requires_grad` are
    those of the instance. An instance that was converted to another type than the file's is refused. A factory, and
    `model` as a function, are called with autocast, inference mode and a default device off. A fresh instance is in
    training mode: call ``.eval()`` before use.

    Args:
        path: A file that `save_pruned` wrote.
        model: An instance of the original (dense) class, which is changed in place, or a function without arguments
            that returns one. Without it, the factory named in the file is called.
        strict: Whether to refuse tensors that are not, bit for bit, those that were saved with this plan. Pass False
            for a file whose tensors another program has replaced on purpose.
        trust_factory: Whether to import and call a factory ``package.module:function`` that the file names, which runs
            any code. Factories of timm, torchvision and scionet need no trust: their arguments are checked, and the
            network is built without memory first. The factory loads no weights, trusted or not.

    Returns:
        The instance, now pruned.

    Raises:
        CheckpointError: If the file is missing, damaged, of a newer format, or of another architecture or type; if its
            plan and its weights disagree; or if there is neither `model` nor a trusted factory. `model` is then not
            changed.
        InvalidSetting: If the recorded factory is unknown.
        MissingExtra: If the package of the recorded factory is not installed.
    """
    manifest, tensors = Manifest.read(path, changed=not strict)
    refuse_disagreement(str(path), manifest, tensors)
    if model is None:
        model = dense_network(path, trust_factory=trust_factory)
    elif not isinstance(model, nn.Module):
        model = model()
    if not isinstance(model, nn.Module):
        raise InvalidSetting(f"model must be a torch.nn.Module or a function that returns one; given {model!r}")
    refuse_missing_memory(model)
    refuse_other_architecture(path, manifest, model)
    refuse_unready(model)
    refuse_other_types(path, tensors, model)
    fill(path, model, manifest, tensors)
    return model


@plain_modes()
def dense_network(path: str | Path, *, trust_factory: bool = False) -> nn.Module:
    """A dense network from the factory that a file of a pruned network names, with untrained weights.

    Args:
        path: A file that `save_pruned` wrote.
        trust_factory: As in `load_pruned`.

    Raises:
        CheckpointError: If the file is missing or damaged, names no factory that may be called, or one that fails,
            makes another network, or cannot be called safely.
        InvalidSetting: If the recorded factory is unknown, or fails although it is trusted.
        MissingExtra: If the package of the recorded factory is not installed.
    """
    manifest = Manifest.header(path)
    if manifest.factory is None:
        raise CheckpointError(f"{path} names no factory; pass model, a fresh instance of {manifest.model}")
    factory, kwargs = manifest.factory, manifest.factory_kwargs
    if trust_factory:
        make = find(factory)
        return made(factory, make, weights_off(make, kwargs))
    if factory.partition(":")[0] not in REGISTRIES:
        raise CheckpointError(
            f"{path} names the factory {factory}, which can run any code. Pass trust_factory=True if you trust the "
            f"file, or model, a fresh instance of {manifest.model}"
        )
    refuse_inflation(path, manifest)
    shapes = list(manifest.dense_shapes.values())
    return build_untrusted(factory, kwargs, shapes, partial(refuse_other_architecture, path, manifest))


def read_plan(path: str | Path) -> Plan:
    """The plan in a file of a pruned network, of the last pruning; its replacement tensors are in the weights.

    Raises:
        CheckpointError: If the file is missing, damaged or of a newer format.
    """
    return Manifest.header(path).plan


def recorded_inputs(path: str | Path) -> Batch | None:
    """Zeros in the shapes and types of the recorded example inputs; None if none were recorded.

    Whatever the shapes, the zeros take no memory; all entries of a tensor share one. Clone what is to be written to.

    Raises:
        CheckpointError: If the file is missing, damaged or of a newer format.
    """
    inputs = Manifest.header(path).inputs
    return None if inputs is None else inputs.blank()


def describe(path: str | Path) -> dict[str, Any]:
    """The contents of a file of a pruned network in JSON-able values, without the tensors.

    Raises:
        CheckpointError: If the file is missing, damaged or of a newer format.
    """
    manifest = Manifest.header(path)
    pruned, dense = manifest.pruned_shapes, manifest.dense_shapes
    return {
        "format_version": PRUNED.format.version,
        "prunings": len(manifest.lineage.plans),
        "model": manifest.model,
        "factory": manifest.factory,
        "factory_kwargs": manifest.factory_kwargs,
        "inputs": plain(manifest.inputs),
        "method": manifest.plan.method,
        "settings": manifest.plan.settings,
        "seed": manifest.plan.seed,
        "status": manifest.plan.status,
        "widths": _widths(manifest.lineage.plans),
        "dropped": [name for plan in manifest.lineage.plans for name in plan.dropped],
        "entries": (
            sum(prod(shape) for name, shape in dense.items() if name not in manifest.tied),
            sum(map(prod, pruned.values())),
        ),
        "bytes": Path(path).stat().st_size,
        "versions": manifest.versions,
        "dense_hash": manifest.lineage.dense_hash,
        "extra": manifest.extra,
    }


def _widths(plans: Sequence[Plan]) -> dict[str, tuple[int, int]]:
    """Units before the first pruning of a site and after its last, by site."""
    widths: dict[str, tuple[int, int]] = {}
    for choice in (choice for plan in plans for choice in plan.choices):
        first, _ = widths.get(choice.site, (choice.width, 0))
        widths[choice.site] = first, len(choice.kept)
    return widths


def _versions() -> dict[str, str]:
    return {"scionet": _own_version(), "torch": str(torch.__version__)}


def _own_version() -> str:
    try:
        return version("scionet")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
