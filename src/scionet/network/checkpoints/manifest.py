"""The manifest of a pruned network's file: one JSON text in the metadata, with a checksum."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scionet.errors import CheckpointError
from scionet.files.json_dataclasses import plain
from scionet.files.versioned import Format
from scionet.network.checkpoints.records import Inputs, PruningRecord, TensorRecord, refuse_odd_ties, refuse_other_plans
from scionet.network.lineage import Lineage, Pruning
from scionet.network.phrases import counted
from scionet.network.plan import Plan

SEVERAL_PRUNINGS = "several_prunings"
"""Feature of files of networks that were pruned more than once."""
FORMAT = Format(
    version=2,
    features=(SEVERAL_PRUNINGS,),
    advice="Save the network again with this version, or read it with the old one",
)
"""The format of the manifest; see docs/file_formats.md."""

_TEXT, _CHECKSUM = "scionet", "scionet_sha256"


@dataclass(frozen=True, eq=False, repr=False)
class Manifest:
    """Everything in the file of a pruned network except the weights.

    Attributes:
        lineage: The plans, without replacement tensors, the dense shapes and the kept entries.
        tied: For every tensor that is stored under the name of another, that name.
        weights_hash: Hash of the stored tensors.
        model: Module and qualified name of the network's class.
        factory: The factory of the dense network as `scionet.models.factory.build` takes it, if one was given.
        factory_kwargs: Arguments of the factory.
        inputs: Shapes and types of the example inputs as `input_record` returns them, if any were given.
        versions: Versions of scionet and torch that wrote the file.
        extra: The caller's own records.
    """

    lineage: Lineage
    tied: Mapping[str, str]
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
    def plan(self) -> Plan:
        """The plan of the last pruning."""
        return self.lineage.plans[-1]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Dense shape of every tensor of the network, by name."""
        return self.lineage.shapes

    @property
    def pruned_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor by name."""
        return {name: shape for name, shape in self.lineage.pruned_shapes.items() if name not in self.tied}

    def to_metadata(self) -> dict[str, str]:
        """The manifest and its checksum as the metadata of a safetensors file.

        Raises:
            CheckpointError: If the plan's settings, the arguments of the factory, `inputs` or `extra` cannot be written
                as JSON.
        """
        requires = [SEVERAL_PRUNINGS] if len(self.lineage.plans) > 1 else []
        try:
            text = FORMAT.write(self._record(), requires)
        except ValueError as error:
            raise CheckpointError(
                f"cannot be recorded as JSON: {error}; settings, factory_kwargs, example_inputs and extra may contain "
                "texts, finite numbers, Booleans, None, and lists and dicts of these with texts as keys"
            ) from error
        return {_TEXT: text, _CHECKSUM: hashlib.sha256(text.encode()).hexdigest()}

    def _record(self) -> "_Record":
        kept = self.lineage.kept
        return _Record(
            prunings=tuple(PruningRecord(each.plan.record, each.slots) for each in self.lineage.prunings),
            tensors={name: TensorRecord(shape, kept.get(name, {})) for name, shape in self.shapes.items()},
            dense_hash=self.lineage.dense_hash,
            inputs=self.inputs,  # type: ignore[arg-type]  plain already
            **{name: getattr(self, name) for name in _SHARED},
        )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Manifest":
        """The inverse of `to_metadata`.

        Raises:
            CheckpointError: If the metadata are not those of a pruned network, damaged, or of another format. The
                message is to be preceded by the name of the file.
        """
        if _TEXT not in metadata:
            raise CheckpointError("has no metadata of scionet; give a file that save_pruned wrote")
        if hashlib.sha256(metadata[_TEXT].encode()).hexdigest() != metadata.get(_CHECKSUM):
            raise CheckpointError("is damaged: its metadata do not match their checksum; copy or save it again")
        try:
            record = FORMAT.read(_Record, metadata[_TEXT], "manifest")
            return cls(
                lineage=record.lineage(),
                inputs=None if record.inputs is None else plain(record.inputs),
                **{name: getattr(record, name) for name in _SHARED},
            )
        except ValueError as error:
            raise CheckpointError(f"is not a file of a pruned network that this scionet reads: {error}") from error


_SHARED = ("tied", "weights_hash", "model", "factory", "factory_kwargs", "versions", "extra")


@dataclass(frozen=True)
class _Record:
    """The manifest as it stands in the file."""

    prunings: tuple[PruningRecord, ...]
    tensors: Mapping[str, TensorRecord]
    tied: Mapping[str, str]
    dense_hash: str
    weights_hash: str
    model: str
    factory: str | None
    factory_kwargs: Mapping[str, Any]
    inputs: Inputs | None
    versions: Mapping[str, str]
    extra: Mapping[str, Any]

    def lineage(self) -> Lineage:
        """The lineage, after a check of what belongs together.

        Raises:
            CheckpointError: If there is no pruning, the kept entries are not those of the plans, or ties do not fit.
        """
        if not self.prunings:
            raise CheckpointError("manifest.prunings must have one entry or more; given none")
        refuse_odd_ties(self.tied, self.tensors)
        refuse_other_plans(self.prunings, {n: each for n, each in self.tensors.items() if n not in self.tied})
        kept = {name: tensor.kept for name, tensor in self.tensors.items() if tensor.kept}
        shapes = {name: tensor.dense for name, tensor in self.tensors.items()}
        prunings = tuple(Pruning(record.plan.plan(), record.slots) for record in self.prunings)
        return Lineage(prunings, shapes, kept, self.dense_hash)
