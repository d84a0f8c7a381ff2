"""The state of a training: a value, and a sealed safetensors file. Nothing is pickled."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scionet.errors import CheckpointError, PruneError
from scionet.files.json_dataclasses import to_json
from scionet.files.safetensors_files import SealedFormat, hash_tensors
from scionet.files.versioned import Format
from scionet.training.callback_state import CallbackState
from scionet.training.optimisers import Memory
from scionet.training.validation import Validation

STATES = SealedFormat(
    "scionet_training", "training state", "fit", Format(4, (), "Delete the file to start the training again")
)
_PARTS = ("network", "average", "best")
_ACCIDENTS = (
    *(ArithmeticError, AssertionError, AttributeError, BufferError, LookupError, MemoryError),
    *(RuntimeError, StopIteration, TypeError, ValueError),
)
_SHOWN, _LONGEST = 12, 60
"""How many differences an error lists, and how long each value may be."""


@dataclass(frozen=True)
class Epoch:
    """The result of one pass through the training data.

    Attributes:
        number: Number of the epoch, from 1.
        step: Steps done since the training began.
        loss: Mean training loss over the steps of this epoch, without the penalties of callbacks.
        learning_rate: Learning rate of its last step.
        validation: Accuracy on the validation data, or the mean loss where that is measured; None if there are no data.
        penalties: Mean penalty over the steps of this epoch, by the name of the callback.
    """

    number: int
    step: int
    loss: float
    learning_rate: float
    validation: Validation | None = None
    penalties: Mapping[str, float] = field(default_factory=dict)


def best_epoch(history: Sequence[Epoch]) -> int:
    """Number of the epoch with the best validation, the first of equals; 0 if none was validated."""
    scores = [(epoch.validation.score, -epoch.number) for epoch in history if epoch.validation is not None]
    return -max(scores)[1] if scores else 0


@dataclass(frozen=True, eq=False)
class TrainingState:
    """The state of a training. Random numbers and the order of the data follow from the seed and the step.

    Attributes:
        step: Steps done.
        network: Parameters and buffers by name.
        memory: State of the optimiser, such as momentum, by parameter.
        average: Average of the weights, if the recipe asks for one.
        best: Weights of the epoch with the best validation, if training may stop early.
        history: The epochs done.
        losses: Sum of the losses of the current epoch.
        penalties: Sum of the penalties of the current epoch, by the name of the callback.
        settings: The settings that must be the same when the training resumes, as JSON values.
        loss_scale: State of the gradient scaler of float16, if there is one.
        callbacks: The callbacks and their states. None if the callbacks that are given next start from the beginning.
        origin: What the training began with, JSON-able: its network, its weights, or the state that it started from. It
            must be the same when the training goes on from a file.
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
    origin: Mapping[str, Any] = field(default_factory=dict)

    def with_new_callbacks(self) -> "TrainingState":
        """The same state for a training with any callbacks, which start from the beginning."""
        return replace(self, callbacks=None)


@dataclass(frozen=True)
class _CallbackRecord:
    """A callback's state without its tensors; values are pairs, which keep their order."""

    kind: str
    settings: Mapping[str, Any]
    values: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class _Progress:
    """How far a training is: what a state holds beside tensors and what is compared."""

    step: int
    history: tuple[Epoch, ...]
    losses: float
    penalties: Mapping[str, float]
    loss_scale: Mapping[str, int | float]
    callbacks: tuple[_CallbackRecord, ...] | None

    @classmethod
    def of(cls, state: TrainingState) -> "_Progress":
        kept = state.callbacks
        records = (
            None if kept is None else tuple(_CallbackRecord(c.kind, c.settings, tuple(c.values.items())) for c in kept)
        )
        return cls(state.step, state.history, state.losses, state.penalties, state.loss_scale, records)


@dataclass(frozen=True)
class _StateRecord:
    """The JSON of a state."""

    progress: _Progress
    settings: Mapping[str, Any]
    origin: Mapping[str, Any]


def save_state(path: str | Path, state: TrainingState) -> None:
    """Write a state to a file, completely or not at all. Equal states give equal bytes.

    Raises:
        CheckpointError: If it cannot be written.
    """
    record = _StateRecord(_Progress.of(state), state.settings, state.origin)
    STATES.save(path, _tensors_of(state), record, overwrite=True)


def load_state(path: str | Path) -> TrainingState:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged, of another format version, or no state of a training.
    """
    record, tensors = STATES.read(_StateRecord, path)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in (*_PARTS, "memory", "callbacks")}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        if part not in parts:
            raise STATES.damaged(path, f"it holds a tensor {key!r:.60}")
        parts[part][name] = tensor
    memory, held = (_by_owner(parts.pop(part)) for part in ("memory", "callbacks"))
    progress = record.progress
    kept = progress.callbacks
    if kept is not None:
        kept = tuple(
            CallbackState(one.kind, one.settings, dict(one.values), held.get(str(number), {}))
            for number, one in enumerate(kept)
        )
    known = {**vars(progress), "callbacks": kept, "settings": record.settings, "origin": record.origin}
    return TrainingState(**parts, **known, memory=memory)


@contextmanager
def explained(work: str, restored: bool) -> Iterator[None]:
    """Turn an error of the block into one of ours, if it works with a state that was restored.

    Code of others (callbacks, optimisers) fails anywhere if its state has other types or shapes than it made. Errors
    that are none of Python's own kinds are meant, and stay as they are.

    Args:
        work: What the block does, for the message.
        restored: Whether it works with a restored state.

    Raises:
        CheckpointError: If the block fails and a state was restored.
    """
    try:
        yield
    except (PruneError, torch.OutOfMemoryError):
        raise
    except _ACCIDENTS as error:
        if not restored:
            raise
        raise CheckpointError(
            f"{work} fails with the state that was restored: {error!r}; correct it, or start again"
        ) from error


def hash_state(state: TrainingState) -> str:
    """A hash of all that the rest of a training depends on, apart from its settings."""
    text = to_json(_Progress.of(state)) + hash_tensors(_tensors_of(state))
    return hashlib.sha256(text.encode()).hexdigest()


def _tensors_of(state: TrainingState) -> dict[str, Tensor]:
    """All tensors of a state, by part and name."""
    tensors = {f"{part}/{name}": t for part in _PARTS for name, t in getattr(state, part).items()}
    tensors |= {f"memory/{name}/{key}": t for name, kept in state.memory.items() for key, t in kept.items()}
    for number, kept in enumerate(state.callbacks or ()):
        tensors |= {f"callbacks/{number}/{key}": tensor for key, tensor in kept.tensors.items()}
    return tensors


def _by_owner(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors named ``owner/key``, by owner and key."""
    owners: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition("/")
        owners.setdefault(owner, {})[key] = tensor
    return owners


def refuse_inconsistent(state: TrainingState, source: str, per_epoch: int, total: int) -> None:
    """Refuse a state whose numbers are those of no training of this length.

    Args:
        state: The state.
        source: Where it comes from, for the error.
        per_epoch: Steps of an epoch.
        total: Steps of the training.

    Raises:
        CheckpointError: If the epochs are not those that end at its step or before.
    """
    ends = [(number, min(number * per_epoch, total)) for number in range(1, len(state.history) + 1)]
    done = state.step // per_epoch + (state.step == total and total % per_epoch > 0)
    if [(e.number, e.step) for e in state.history] != ends or done != len(ends) or not 0 <= state.step <= total:
        raise CheckpointError(
            f"{source} is no state of a training: {len(ends)} epochs are done at step {state.step:,}, of {total:,} "
            f"with {per_epoch:,} in an epoch; start again"
        )


def refuse_differences(kept: Mapping[str, Any], given: Mapping[str, Any], advice: str) -> None:
    """Compare the settings of a training with those with which it is resumed.

    Raises:
        CheckpointError: If they differ; the error lists how.
    """
    if found := differences(kept, given):
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        listed = "; ".join(found[:_SHOWN])
        raise CheckpointError(f"the training was started with other settings ({listed}{more}); {advice}")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two nested mappings, one text for each entry."""
    first, second = _flat(before), _flat(now)
    return [
        f"{key} was {_brief(first.get(key, 'not there'))}, is {_brief(second.get(key, 'not there'))}"
        for key in sorted(first.keys() | second.keys())
        if key not in first or key not in second or first[key] != second[key]
    ]


def _brief(value: Any) -> str:
    """A value as text; hashes and other long texts are abridged."""
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
