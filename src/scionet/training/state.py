"""Where a training stands, as a value, and as one file: safetensors with JSON beside the tensors, never pickle."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from scionet.errors import CheckpointError
from scionet.files.atomic import whole_file
from scionet.files.safetensors_files import opened, tensors_in
from scionet.training.accuracy import Accuracy
from scionet.training.optimisers import Memory

FORMAT_VERSION = 1
"""Raised when a file can no longer be read by the code of the version before."""

_TEXT, _SEAL = "scionet_training", "scionet_sha256"
_WRITER = "fit"


@dataclass(frozen=True)
class Epoch:
    """One pass through the training data.

    Attributes:
        number: From 1.
        step: Steps done in all.
        loss: Mean of the training loss over the steps of this epoch.
        learning_rate: Of its last step.
        validation: How the network did on the validation data, if there were any.
    """

    number: int
    step: int
    loss: float
    learning_rate: float
    validation: Accuracy | None = None


def best_epoch(history: Sequence[Epoch]) -> int:
    """Number of the epoch of the best validation accuracy, the first of equals; 0 if none was measured."""
    rates = [(epoch.validation.rate, -epoch.number) for epoch in history if epoch.validation is not None]
    return -max(rates)[1] if rates else 0


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Where a training stands. Random numbers and the order of data follow from the seed and the step.

    Attributes:
        step: Steps done.
        network: Parameters and buffers by name, in the midst of training.
        memory: What the optimiser remembers.
        average: The average of the weights, if there is one.
        best: Weights of the epoch of the best validation accuracy, if training may stop early.
        history: The epochs done.
        losses: Sum of the losses of the present epoch.
        settings: What must be the same where the training goes on, JSON-able.
        loss_scale: State of the gradient scaler of float16, if there is one.
    """

    step: int
    network: Mapping[str, Tensor]
    memory: Memory
    average: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    history: tuple[Epoch, ...]
    losses: float
    settings: Mapping[str, Any]
    loss_scale: Mapping[str, float]


def save_state(path: str | Path, state: TrainingState) -> None:
    """Write a state, whole or not at all; what was there before is replaced.

    Raises:
        CheckpointError: If it cannot be written.
    """
    tensors = {f"{part}/{name}": t for part in _PARTS for name, t in getattr(state, part).items()}
    tensors |= {f"memory/{name}/{key}": t for name, kept in state.memory.items() for key, t in kept.items()}
    record = {
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "history": [asdict(epoch) for epoch in state.history],
        "losses": state.losses,
        "settings": dict(state.settings),
        "loss_scale": dict(state.loss_scale),
    }
    text = json.dumps(record)
    with whole_file(path, ".safetensors", overwrite=True, error=CheckpointError) as temporary:
        seal = hashlib.sha256(text.encode()).hexdigest()
        temporary.write_bytes(save({name: t.contiguous() for name, t in tensors.items()}, {_TEXT: text, _SEAL: seal}))


def load_state(path: str | Path) -> TrainingState:
    """What `save_state` wrote. Nothing is unpickled.

    Raises:
        CheckpointError: If the file is missing, damaged, of a newer format or of something else.
    """
    with opened(path, _WRITER) as file:
        metadata = file.metadata() or {}
    text = metadata.get(_TEXT, "")
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get(_SEAL):
        raise CheckpointError(f"{path} is no state of a training, or damaged; delete it to begin anew")
    record = json.loads(text)
    if (version := record.pop("format_version")) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this scionet reads up to {FORMAT_VERSION}: pip install -U scionet"
        )
    parts: dict[str, dict[str, Any]] = {part: {} for part in (*_PARTS, "memory")}
    for key, tensor in tensors_in(path, _WRITER).items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    memory: dict[str, dict[str, Tensor]] = {}
    for key, tensor in parts.pop("memory").items():
        name, _, quantity = key.rpartition("/")
        memory.setdefault(name, {})[quantity] = tensor
    history = tuple(_epoch(entry) for entry in record.pop("history"))
    return TrainingState(**parts, **record, memory=memory, history=history)


_PARTS = ("network", "average", "best")


def _epoch(entry: dict[str, Any]) -> Epoch:
    validation = entry.pop("validation")
    return Epoch(**entry, validation=None if validation is None else Accuracy(**validation))


def refuse_differences(kept: Mapping[str, Any], given: Mapping[str, Any], advice: str) -> None:
    """Compare the settings of a training that was begun with those under which it is to go on.

    Raises:
        CheckpointError: If they differ; the text lists how.
    """
    before, now = _flat(kept), _flat(given)
    differ = [
        f"{key} was {before.get(key, 'not there')}, is {now.get(key, 'not there')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differ:
        raise CheckpointError(f"a training was begun with other settings ({'; '.join(differ)}); {advice}")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
