"""Saving and loading a pruned network: one safetensors file with the plan as JSON in its metadata, without pickle.

The file contains every parameter and buffer of the pruned network (tied ones once) and a manifest, which lists the
entries of the dense tensors that were kept. To load it, a fresh instance of the original class is needed, but neither a
forward pass nor data.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from scionet.errors import CheckpointError, InvalidSetting
from scionet.files.atomic import whole_file
from scionet.files.safetensors_files import opened, tensors_in
from scionet.models.factory import build
from scionet.network.calling import Batch, hash_tensors, state_of
from scionet.network.checkpoints.manifest import FORMAT_VERSION, Manifest, blank_inputs, input_record
from scionet.network.checkpoints.packing import (
    fill,
    layout,
    refuse_disagreement,
    refuse_other_architecture,
    transient_buffers,
)
from scionet.network.plan import Plan
from scionet.network.sites import Sites

REGISTRIES = ("scionet", "timm", "torchvision")
"""Sources of factories that can be called without running code that the file chooses."""
_WRITER = "save_pruned"


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
        CheckpointError: If the file exists or cannot be written, if the shapes of `pruned` are not those of the plan,
            or if it has state that safetensors cannot store.
        InvalidSetting: If `path` or `factory` is malformed, or the plan belongs to another network.
    """
    if factory is not None and not all(factory.partition(":")):
        raise InvalidSetting(
            f"factory must be timm:NAME, torchvision:NAME, scionet:NAME or package.module:function; given {factory!r}"
        )
    with whole_file(path, ".safetensors", overwrite=overwrite, error=CheckpointError) as temporary:
        names, tied, kept = layout(pruned, plan, sites)
        tensors = _stored(pruned, names)
        grown = {name: state_of(pruned)[name].shape for name in transient_buffers(pruned) - kept.keys()}
        manifest = Manifest(
            plan=plan,
            shapes={name: tuple(grown.get(name, sites.shapes[name])) for name in (*names, *tied)},
            kept=kept,
            tied=tied,
            dense_hash=sites.dense_hash,
            weights_hash=hash_tensors(tensors),
            model=f"{type(pruned).__module__}.{type(pruned).__qualname__}",
            factory=factory,
            factory_kwargs=dict(factory_kwargs or {}),
            inputs=None if example_inputs is None else input_record(example_inputs),
            versions=_versions(),
            extra=dict(extra or {}),
        )
        refuse_disagreement("the given network", manifest, tensors)
        temporary.write_bytes(_serialised(tensors, manifest))
    return Path(path)


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
    with whole_file(path, ".safetensors", overwrite=overwrite, error=CheckpointError) as temporary:
        manifest = _manifest(source)
        tensors = _stored(tuned, manifest.pruned_shapes.keys() & state_of(tuned).keys())
        refuse_disagreement("the given network", manifest, tensors)
        updated = replace(
            manifest,
            weights_hash=hash_tensors(tensors),
            versions=_versions(),
            extra={**manifest.extra, **(extra or {})},
        )
        temporary.write_bytes(_serialised(tensors, updated))
    return Path(path)


def load_pruned(
    path: str | Path,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    strict: bool = True,
    trust_factory: bool = False,
) -> nn.Module:
    """Load a pruned network into a fresh instance of its original class.

    Nothing is unpickled, traced or run. Floating-point types are those of the file; devices and `requires_grad` are
    those of the instance. A fresh instance is in training mode: call ``.eval()`` before use.

    Args:
        path: A file that `save_pruned` wrote.
        model: An instance of the original (dense) class, which is changed in place, or a function without arguments
            that returns one. Without it, the factory named in the file is called.
        strict: Whether to refuse tensors that are not, bit for bit, those that were saved with this plan.
        trust_factory: Whether to import and call a factory ``package.module:function`` that the file names, which runs
            any code. Factories of timm, torchvision and scionet need no trust.

    Returns:
        The instance, now pruned.

    Raises:
        CheckpointError: If the file is missing, damaged, of a newer format or of another architecture; if its plan and
            its weights disagree; or if there is neither `model` nor a trusted factory. `model` is not changed then.
        InvalidSetting: If the recorded factory is unknown.
        MissingExtra: If the package of the recorded factory is not installed.
    """
    manifest = _manifest(path)
    tensors = tensors_in(path, _WRITER)
    refuse_disagreement(str(path), manifest, tensors)
    if strict and hash_tensors(tensors) != manifest.weights_hash:
        raise CheckpointError(
            f"{path}: plan and weights disagree: the tensors are not those that were saved with this plan. Copy or "
            "save the file again, or pass strict=False if the weights were changed on purpose"
        )
    if model is None:
        model = dense_network(path, trust_factory=trust_factory)
    elif not isinstance(model, nn.Module):
        model = model()
    if not isinstance(model, nn.Module):
        raise InvalidSetting(f"model must be a torch.nn.Module or a function that returns one; given {model!r}")
    refuse_other_architecture(path, manifest, model)
    fill(model, manifest, tensors)
    return model


def dense_network(path: str | Path, *, trust_factory: bool = False) -> nn.Module:
    """A dense network from the factory that a file of a pruned network names, with untrained weights.

    Args:
        path: A file that `save_pruned` wrote.
        trust_factory: As in `load_pruned`.

    Raises:
        CheckpointError: If the file is missing or damaged, or names no factory that may be called.
        InvalidSetting: If the recorded factory is unknown.
        MissingExtra: If the package of the recorded factory is not installed.
    """
    manifest = _manifest(path)
    if manifest.factory is None:
        raise CheckpointError(f"{path} names no factory; pass model, a fresh instance of {manifest.model}")
    kwargs = dict(manifest.factory_kwargs)
    source = manifest.factory.partition(":")[0]
    if not trust_factory and (source not in REGISTRIES or "checkpoint_path" in kwargs):
        raise CheckpointError(
            f"{path} names the factory {manifest.factory} with the arguments {kwargs}, which can run any code. Pass "
            f"trust_factory=True if you trust the file, or model, a fresh instance of {manifest.model}"
        )
    if source != "torchvision" and "pretrained" in kwargs:
        kwargs["pretrained"] = False  # the weights are in the file
    return build(manifest.factory, **kwargs)


def read_plan(path: str | Path) -> Plan:
    """The plan in a file of a pruned network; its replacement tensors are in the weights.

    Raises:
        CheckpointError: If the file is missing, damaged or of a newer format.
    """
    return _manifest(path).plan


def recorded_inputs(path: str | Path) -> Batch | None:
    """Zeros in the shapes and types of the recorded example inputs; None if none were recorded.

    Raises:
        CheckpointError: If the file is missing, damaged or of a newer format.
    """
    record = _manifest(path).inputs
    return None if record is None else blank_inputs(record)


def describe(path: str | Path) -> dict[str, Any]:
    """The contents of a file of a pruned network in JSON-able values, without the tensors.

    Raises:
        CheckpointError: If the file is missing, damaged or of a newer format.
    """
    manifest = _manifest(path)
    pruned = manifest.pruned_shapes
    return {
        "format_version": FORMAT_VERSION,
        "model": manifest.model,
        "factory": manifest.factory,
        "factory_kwargs": manifest.factory_kwargs,
        "inputs": manifest.inputs,
        "method": manifest.plan.method,
        "settings": manifest.plan.settings,
        "seed": manifest.plan.seed,
        "status": manifest.plan.status,
        "widths": {choice.site: (choice.width, len(choice.kept)) for choice in manifest.plan.choices},
        "entries": (sum(prod(manifest.shapes[name]) for name in pruned), sum(map(prod, pruned.values()))),
        "bytes": Path(path).stat().st_size,
        "versions": manifest.versions,
        "dense_hash": manifest.dense_hash,
        "weights_hash": manifest.weights_hash,
        "extra": manifest.extra,
    }


def _stored(network: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Contiguous copies of the named tensors of a network on the CPU."""
    state = state_of(network)
    return {n: state[n].detach().to("cpu").clone(memory_format=torch.contiguous_format) for n in names}


def _versions() -> dict[str, str]:
    return {"scionet": _own_version(), "torch": str(torch.__version__)}


def _serialised(tensors: dict[str, Tensor], manifest: Manifest) -> bytes:
    """The bytes of the file.

    Raises:
        CheckpointError: If a tensor or a record cannot be stored.
    """
    metadata = manifest.to_metadata()
    try:
        return save(tensors, metadata)
    except (KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"a tensor cannot be stored as safetensors: {error}; convert it, then save") from error


def _manifest(path: str | Path) -> Manifest:
    with opened(path, _WRITER) as file:
        metadata = file.metadata() or {}
    try:
        return Manifest.from_metadata(metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error


def _own_version() -> str:
    try:
        return version("scionet")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
