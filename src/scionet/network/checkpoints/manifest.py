"""The manifest of a pruned network: the header of its file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scionet.errors import CheckpointError
from scionet.files.safetensors_files import SealedFormat
from scionet.files.versioned import Format
from scionet.network.checkpoints.records import (
    Inputs,
    PruningRecord,
    TensorRecord,
    lost_tensors,
    refuse_odd_ties,
    refuse_other_plans,
)
from scionet.network.lineage import Lineage, Pruning
from scionet.network.phrases import counted
from scionet.network.plan import DROPPED_BRANCHES, Plan

SEVERAL_PRUNINGS = "several_prunings"
"""Feature of files of networks that were pruned more than once."""
PRUNED = SealedFormat(
    key="scionet",
    contents="pruned network",
    writer="save_pruned",
    format=Format(
        3, (SEVERAL_PRUNINGS, DROPPED_BRANCHES), "Copy the file again, or save the network again with this version"
    ),
    title="manifest",
)
"""Files of pruned networks; see docs/file_formats.md."""


@dataclass(frozen=True, eq=False, repr=False)
class Manifest:
    """Everything in the file of a pruned network except the weights.

    Attributes:
        lineage: The plans, without replacement tensors, the dense shapes and the kept entries.
        tied: For every tensor that is stored under the name of another, that name.
        model: Module and qualified name of the network's class.
        factory: The factory of the dense network as `scionet.models.factory.build` takes it, if one was given.
        factory_kwargs: Arguments of the factory.
        inputs: Shapes and types of the example inputs, if any were given.
        versions: Versions of scionet and torch that wrote the file.
        extra: The caller's own records.
    """

    lineage: Lineage
    tied: Mapping[str, str]
    model: str
    factory: str | None
    factory_kwargs: Mapping[str, Any]
    inputs: Inputs | None
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
    def dense_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The same without the constants of dropped branches, which the dense network does not have."""
        return self.lineage.dense_shapes

    @property
    def pruned_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor by name."""
        return {name: shape for name, shape in self.lineage.pruned_shapes.items() if name not in self.tied}

    def save(self, path: str | Path, tensors: Mapping[str, Tensor], *, overwrite: bool) -> Path:
        """Write the file of a pruned network.

        Args:
            path: The file; its name ends in ``.safetensors``.
            tensors: The tensors to store, by name.
            overwrite: Whether an existing file may be replaced.

        Raises:
            CheckpointError: If the file exists or cannot be written, or if a tensor, the plan's settings, the arguments
                of the factory, an example input or `extra` cannot be stored.
            InvalidSetting: If the name of the file does not end in ``.safetensors``.
        """
        requires = [SEVERAL_PRUNINGS] if len(self.lineage.plans) > 1 else []
        requires += [DROPPED_BRANCHES] if self.lineage.constants else []
        return PRUNED.save(path, tensors, self._record(), overwrite=overwrite, requires=requires)

    @classmethod
    def header(cls, path: str | Path) -> "Manifest":
        """The manifest in a file.

        Raises:
            CheckpointError: If the file is missing, damaged, of another format, or not that of a pruned network.
        """
        return cls._of(PRUNED.header(_ManifestRecord, path), path)

    @classmethod
    def read(cls, path: str | Path, *, changed: bool = False) -> "tuple[Manifest, dict[str, Tensor]]":
        """The manifest and the tensors in a file.

        Args:
            path: The file.
            changed: Whether the tensors may be others than those that were saved with this manifest.

        Raises:
            CheckpointError: If the file is missing, damaged, of another format, or not that of a pruned network.
        """
        record, tensors = PRUNED.read(_ManifestRecord, path, changed=changed)
        return cls._of(record, path), tensors

    @classmethod
    def _of(cls, record: "_ManifestRecord", path: str | Path) -> "Manifest":
        try:
            return cls(lineage=record.lineage(), **{name: getattr(record, name) for name in _SHARED})
        except ValueError as error:
            raise PRUNED.damaged(path, error) from error

    def _record(self) -> "_ManifestRecord":
        kept = self.lineage.kept
        return _ManifestRecord(
            prunings=tuple(
                PruningRecord(each.plan.record, each.slots, each.removals) for each in self.lineage.prunings
            ),
            tensors={name: TensorRecord(shape, kept.get(name, {})) for name, shape in self.shapes.items()},
            dense_hash=self.lineage.dense_hash,
            **{name: getattr(self, name) for name in _SHARED},
        )


_SHARED = ("tied", "model", "factory", "factory_kwargs", "inputs", "versions", "extra")


@dataclass(frozen=True)
class _ManifestRecord:
    """The manifest as it stands in the file."""

    prunings: tuple[PruningRecord, ...]
    tensors: Mapping[str, TensorRecord]
    tied: Mapping[str, str]
    dense_hash: str
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
        gone = lost_tensors(self.prunings, self.tensors)
        refuse_other_plans(self.prunings, {n: each for n, each in self.tensors.items() if n not in self.tied}, gone)
        kept = {name: tensor.kept for name, tensor in self.tensors.items() if tensor.kept}
        shapes = {name: tensor.dense for name, tensor in self.tensors.items()}
        prunings = tuple(Pruning(record.plan.plan(), record.slots, record.removals) for record in self.prunings)
        return Lineage(prunings, shapes, kept, self.dense_hash, gone=gone)
