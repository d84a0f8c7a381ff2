"""What the file of a pruned network says beside its weights: one JSON text, sealed against damage."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scionet.errors import CheckpointError
from scionet.network.calling import Batch, as_arguments
from scionet.network.plan import Plan

FORMAT_VERSION = 1
"""Raised when a file can no longer be read by the code of the version before."""

_TEXT, _SEAL = "scionet", "scionet_sha256"


@dataclass(frozen=True, eq=False)
class Manifest:
    """All that a file of a pruned network says beside its weights.

    Attributes:
        plan: What stayed, without replacement tensors.
        shapes: Dense shape of every tensor of the network, by name.
        kept: Per tensor and dimension that shrank, the entries of the dense tensor that stayed, ascending.
        tied: Names of tensors that are stored under another name, and that name.
        dense_hash: Hash of the dense network's state.
        weights_hash: Hash of the stored tensors.
        model: Module and qualified name of the network's class.
        factory: Text that names the factory of the dense network, if one was given.
        factory_kwargs: Arguments of the factory.
        inputs: Shapes and types of the example inputs, as `input_record` makes them, if any were given.
        versions: Versions of scionet and torch that wrote the file.
        extra: What the caller added.
    """

    plan: Plan
    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, Mapping[int, tuple[int, ...]]]
    tied: Mapping[str, str]
    dense_hash: str
    weights_hash: str
    model: str
    factory: str | None
    factory_kwargs: Mapping[str, Any]
    inputs: Mapping[str, Any] | None
    versions: Mapping[str, str]
    extra: Mapping[str, Any]

    @property
    def pruned_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor by name."""
        return {name: self._pruned(name, shape) for name, shape in self.shapes.items() if name not in self.tied}

    def _pruned(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A dense shape without the entries that went."""
        kept = self.kept.get(name, {})
        return tuple(len(kept[dim]) if dim in kept else size for dim, size in enumerate(shape))

    def to_metadata(self) -> dict[str, str]:
        """The manifest and its seal, as the metadata of a safetensors file.

        Raises:
            CheckpointError: If the plan's settings, the arguments of the factory or `extra` are no JSON.
        """
        record = {
            "format_version": FORMAT_VERSION,
            **{key: value for key, value in vars(self).items() if key not in ("plan", "shapes", "kept")},
            "tensors": {name: {"dense": shape, "kept": self.kept.get(name, {})} for name, shape in self.shapes.items()},
        }
        try:
            text = json.dumps(record | {"plan": json.loads(self.plan.to_json())}, default=_plain, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"cannot be recorded as JSON: {error}; settings, factory_kwargs and extra may hold text, numbers, "
                "truth values, None, lists and dicts of these with text as keys"
            ) from error
        return {_TEXT: text, _SEAL: hashlib.sha256(text.encode()).hexdigest()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Manifest":
        """The inverse of `to_metadata`.

        Raises:
            CheckpointError: If the metadata are not of a pruned network, damaged, or of a newer format. The text lacks
                the name of the file.
        """
        if _TEXT not in metadata:
            raise CheckpointError("has no metadata of scionet; give a file that save_pruned wrote")
        if hashlib.sha256(metadata[_TEXT].encode()).hexdigest() != metadata.get(_SEAL):
            raise CheckpointError("is damaged: its metadata are not those that were written; copy or save it again")
        try:
            return cls._from_record(json.loads(metadata[_TEXT]))
        except CheckpointError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"is no file of a pruned network ({error!r}); save it again by save_pruned"
            ) from error

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> "Manifest":
        """The manifest from its JSON.

        Raises:
            CheckpointError: If the format is newer.
        """
        version = record.pop("format_version")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"has format version {version}; this scionet reads up to {FORMAT_VERSION}: pip install -U scionet"
            )
        tensors = record.pop("tensors")
        kept = {
            name: {int(dim): tuple(entries) for dim, entries in entry["kept"].items()}
            for name, entry in tensors.items()
            if entry["kept"]
        }
        shapes = {name: tuple(entry["dense"]) for name, entry in tensors.items()}
        return cls(plan=Plan.from_json(json.dumps(record.pop("plan"))), shapes=shapes, kept=kept, **record)


def _plain(value: object) -> dict:
    """Mappings of any kind as JSON.

    Raises:
        TypeError: For anything else.
    """
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"given a {type(value).__name__}")


def input_record(batch: Batch) -> dict[str, Any]:
    """Shapes and types of a batch as JSON; what is no tensor as it is."""
    args, kwargs = as_arguments(batch)
    return {"args": [_form(value) for value in args], "kwargs": {key: _form(value) for key, value in kwargs.items()}}


def blank_inputs(record: Mapping[str, Any]) -> Batch:
    """Zeros in the form of the batch that `input_record` was made of."""
    kwargs = {key: _blank(value) for key, value in record["kwargs"].items()}
    return kwargs or tuple(_blank(value) for value in record["args"])


def _form(value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    return {"value": value}


def _blank(record: Mapping[str, Any]) -> Any:
    if "value" in record:
        return record["value"]
    return torch.zeros(record["shape"], dtype=getattr(torch, record["dtype"]))
