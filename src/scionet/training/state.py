"""The state of a training: a value, and a safetensors file with JSON in its metadata. Nothing is pickled."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from scionet.errors import CheckpointError
from scionet.files.atomic import whole_file
from scionet.files.safetensors_files import opened, tensors_in
from scionet.training.accuracy import Accuracy
from scionet.training.callback_state import CallbackState
from scionet.training.optimisers import Memory

FORMAT_VERSION = 2
"""Version of the file format; files of other versions are refused."""

_TEXT, _SEAL = "scionet_training", "scionet_sha256"
_WRITER = "fit"


@dataclass(frozen=True)
class Epoch:
    """The result of one pass through the training data.

    Attributes:
        number: Number of the epoch, from 1.
        step: Steps done since the training began.
        loss: Mean training loss over the steps of this epoch, without the penalties of callbacks.
        learning_rate: Learning rate of its last step.
        validation: Accuracy on the validation data, if there are any.
        penalties: Mean penalty over the steps of this epoch, by the name of the callback.
    """

    number: int
    step: int
    loss: float
    learning_rate: float
    validation: Accuracy | None = None
    penalties: Mapping[str, float] = field(default_factory=dict)


def best_epoch(history: Sequence[Epoch]) -> int:
    """Number of the epoch with the best validation accuracy, the first of equals; 0 if none was validated."""
    rates = [(epoch.validation.rate, -epoch.number) for epoch in history if epoch.validation is not None]
    return -max(rates)[1] if rates else 0


@dataclass(frozen=True, eq=False)
class TrainingState:
    """The state of a training. Random numbers and the order of the data follow from the seed and the step.

    Attributes:
        step: Steps done.
        network: Parameters and buffers by name.
        memory: State of the optimiser, such as momentum, by parameter.
        average: Average of the weights, if the recipe asks for one.
        best: Weights of the epoch with the best validation accuracy, if training may stop early.
        history: The epochs done.
        losses: Sum of the losses of the current epoch.
        penalties: Sum of the penalties of the current epoch, by the name of the callback.
        settings: The settings that must be the same when the training resumes, as JSON values.
        loss_scale: State of the gradient scaler of float16, if there is one.
        callbacks: The callbacks and their states. None if the callbacks that are given next start from the beginning.
    """

    step: int
    network: Mapping[str, Tensor]
    memory: Memory
    average: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    history: tuple[Epoch, ...]
    losses: float
    penalties: Mapping[str, float]
    settings: Mapping[str, Any]
    loss_scale: Mapping[str, float]
    callbacks: tuple[CallbackState, ...] | None

    def with_new_callbacks(self) -> "TrainingState":
        """The same state for a training with any callbacks, which start from the beginning."""
        return replace(self, callbacks=None)


def save_state(path: str | Path, state: TrainingState) -> None:
    """Write a state to a file, completely or not at all.

    Raises:
        CheckpointError: If it cannot be written.
    """
    tensors = {f"{part}/{name}": t for part in _PARTS for name, t in getattr(state, part).items()}
    tensors |= {f"memory/{name}/{key}": t for name, kept in state.memory.items() for key, t in kept.items()}
    for number, kept in enumerate(state.callbacks or ()):
        tensors |= {f"callbacks/{number}/{key}": tensor for key, tensor in kept.tensors.items()}
    record = {
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "history": [asdict(epoch) for epoch in state.history],
        "losses": state.losses,
        "penalties": dict(state.penalties),
        "settings": dict(state.settings),
        "loss_scale": dict(state.loss_scale),
        "callbacks": None if state.callbacks is None else [_record_of(kept) for kept in state.callbacks],
    }
    text = json.dumps(record)
    with whole_file(path, ".safetensors", overwrite=True, error=CheckpointError) as temporary:
        seal = hashlib.sha256(text.encode()).hexdigest()
        temporary.write_bytes(save({name: t.contiguous() for name, t in tensors.items()}, {_TEXT: text, _SEAL: seal}))


def load_state(path: str | Path) -> TrainingState:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged, of another format version, or no state of a training.
    """
    with opened(path, _WRITER) as file:
        metadata = file.metadata() or {}
    text = metadata.get(_TEXT, "")
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get(_SEAL):
        raise CheckpointError(f"{path} is no state of a training, or damaged; delete it to start again")
    record = json.loads(text)
    _refuse_version(path, record.pop("format_version"))
    parts: dict[str, dict[str, Any]] = {part: {} for part in (*_PARTS, "memory", "callbacks")}
    for key, tensor in tensors_in(path, _WRITER).items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    memory, tensors = (_by_owner(parts.pop(part)) for part in ("memory", "callbacks"))
    history = tuple(_epoch(entry) for entry in record.pop("history"))
    kept = record.pop("callbacks")
    if kept is not None:
        kept = tuple(CallbackState(**one, tensors=tensors.get(str(number), {})) for number, one in enumerate(kept))
    return TrainingState(**parts, **record, memory=memory, history=history, callbacks=kept)


_PARTS = ("network", "average", "best")


def _record_of(kept: CallbackState) -> dict[str, Any]:
    """A callback's state without its tensors."""
    return {"kind": kept.kind, "settings": dict(kept.settings), "values": dict(kept.values)}


def _refuse_version(path: str | Path, version: int) -> None:
    """Refuse a file of another format version.

    Raises:
        CheckpointError: If it is of another version.
    """
    if version == FORMAT_VERSION:
        return
    advice = "pip install -U scionet" if version > FORMAT_VERSION else "delete it to start the training again"
    raise CheckpointError(f"{path} has format version {version}; this scionet reads {FORMAT_VERSION}: {advice}")


def _by_owner(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors named ``owner/key``, by owner and key."""
    owners: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition("/")
        owners.setdefault(owner, {})[key] = tensor
    return owners


def _epoch(entry: dict[str, Any]) -> Epoch:
    validation = entry.pop("validation")
    return Epoch(**entry, validation=None if validation is None else Accuracy(**validation))


def refuse_differences(kept: Mapping[str, Any], given: Mapping[str, Any], advice: str) -> None:
    """Compare the settings of a training with those with which it is resumed.

    Raises:
        CheckpointError: If they differ; the error lists how.
    """
    if found := differences(kept, given):
        raise CheckpointError(f"the training was started with other settings ({'; '.join(found)}); {advice}")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two nested mappings, one text for each entry."""
    first, second = _flat(before), _flat(now)
    return [
        f"{key} was {first.get(key, 'not there')}, is {second.get(key, 'not there')}"
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
