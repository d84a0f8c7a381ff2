"""The manifest of a pruned network's file: one JSON text in the metadata, with a checksum."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scionet.errors import CheckpointError
from scionet.network.calling import Batch, as_arguments
from scionet.network.phrases import counted
from scionet.network.plan import Plan

FORMAT_VERSION = 1
"""Incremented when code of the version before can no longer read the files."""

_TEXT, _CHECKSUM = "scionet", "scionet_sha256"


@dataclass(frozen=True, eq=False, repr=False)
class Manifest:
    """Everything in the file of a pruned network except the weights.

    Attributes:
        plan: The plan, without replacement tensors.
        shapes: Dense shape of every tensor of the network, by name.
        kept: Per tensor and dimension that shrank, the kept entries of the dense tensor, ascending.
        tied: For every tensor that is stored under the name of another, that name.
        dense_hash: Hash of the dense network's state.
        weights_hash: Hash of the stored tensors.
        model: Module and qualified name of the network's class.
        factory: The factory of the dense network as `scionet.models.factory.build` takes it, if one was given.
        factory_kwargs: Arguments of the factory.
        inputs: Shapes and types of the example inputs as `input_record` returns them, if any were given.
        versions: Versions of scionet and torch that wrote the file.
        extra: The caller's own records.
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

    def __repr__(self) -> str:
        """The manifest in one line, without shapes and indices."""
        factory = f", factory {self.factory!r}" if self.factory else ""
        return f"Manifest({self.model}, {counted(len(self.shapes), 'tensor')}{factory}, {self.plan!r})"

    @property
    def pruned_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor by name."""
        return {name: self._pruned(name, shape) for name, shape in self.shapes.items() if name not in self.tied}

    def _pruned(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A dense shape without the removed entries."""
        kept = self.kept.get(name, {})
        return tuple(len(kept[dim]) if dim in kept else size for dim, size in enumerate(shape))

    def to_metadata(self) -> dict[str, str]:
        """The manifest and its checksum as the metadata of a safetensors file.

        Raises:
            CheckpointError: If the plan's settings, the arguments of the factory or `extra` cannot be written as JSON.
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
                f"cannot be recorded as JSON: {error}; settings, factory_kwargs and extra may contain strings, "
                "numbers, Booleans, None, and lists and dicts of these with strings as keys"
            ) from error
        return {_TEXT: text, _CHECKSUM: hashlib.sha256(text.encode()).hexdigest()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Manifest":
        """The inverse of `to_metadata`.

        Raises:
            CheckpointError: If the metadata are not those of a pruned network, damaged, or of a newer format. The
                message is to be preceded by the name of the file.
        """
        if _TEXT not in metadata:
            raise CheckpointError("has no metadata of scionet; give a file that save_pruned wrote")
        if hashlib.sha256(metadata[_TEXT].encode()).hexdigest() != metadata.get(_CHECKSUM):
            raise CheckpointError("is damaged: its metadata do not match their checksum; copy or save it again")
        try:
            return cls._from_record(json.loads(metadata[_TEXT]))
        except CheckpointError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"is not a file of a pruned network ({error!r}); save it again with save_pruned"
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
    """Convert mappings of any kind to dicts, for `json`.

    Raises:
        TypeError: If the value is not a mapping.
    """
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"given a {type(value).__name__}")


def input_record(batch: Batch) -> dict[str, Any]:
    """Shapes and types of the tensors of a batch as JSON; other values are recorded as they are."""
    args, kwargs = as_arguments(batch)
    return {"args": [_form(value) for value in args], "kwargs": {key: _form(value) for key, value in kwargs.items()}}


def blank_inputs(record: Mapping[str, Any]) -> Batch:
    """A batch of zeros in the shapes and types of a record that `input_record` returned."""
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
