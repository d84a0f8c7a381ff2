"""The callbacks of one training: their penalties, and their states when the training is saved and resumed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

from scionet.errors import TrainingError
from scionet.training.callback_state import CallbackState, decoded, described, encoded
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.outline import qualified_name
from scionet.training.state import differences, explained
from scionet.training.terms import scalar

Hook = Literal["on_start", "after_backward", "before_step", "after_step", "before_validation", "after_epoch"]
"""The hooks of a callback that give nothing back."""


class CallbackList:
    """The callbacks of one training, in the order in which they run."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        """Note the settings of each.

        Raises:
            TrainingError: If one is no callback, or does not say what its settings are.
        """
        for number, callback in enumerate(callbacks):
            if not isinstance(callback, Callback):
                given = callback.__name__ if isinstance(callback, type) else f"a {type(callback).__name__}"
                raise TrainingError(f"callbacks[{number}] must be an instance of a subclass of Callback; given {given}")
        self._callbacks, self._restored = tuple(callbacks), False
        self._settings = [_settings_of(callback) for callback in callbacks]

    def __iter__(self) -> Iterator[Callback]:
        """Each callback."""
        return iter(self._callbacks)

    def run(self, hook: Hook, *given: Any) -> None:
        """Run a hook of every callback.

        Raises:
            CheckpointError: If one fails after it was given its state back.
        """
        for callback in self:
            with self._explained(callback, hook):
                getattr(callback, hook)(*given)

    def _explained(self, callback: Callback, hook: str) -> AbstractContextManager[None]:
        return explained(f"{hook}() of the callback {type(callback).__name__}", self._restored)

    def penalties(self, context: TrainingContext) -> dict[str, Tensor]:
        """The penalty of every callback that has one, by its name; names that occur again get a number.

        Raises:
            CheckpointError: If a callback fails after it was given its state back.
            TrainingError: If one is no scalar tensor.
        """
        found: dict[str, Tensor] = {}
        seen = Counter[str]()
        for callback in self:
            with self._explained(callback, "penalty"):
                seen[callback.name] += 1
                penalty = callback.penalty(context)
            if penalty is not None:
                number = seen[callback.name]
                found[callback.name if number == 1 else f"{callback.name} {number}"] = scalar(
                    penalty, f"penalty() of {type(callback).__name__}", "give one, or None for no penalty"
                )
        return found

    def captured(self) -> tuple[CallbackState, ...]:
        """Copies of all that a training state holds of the callbacks.

        Raises:
            CheckpointError: If a callback fails after it was given its state back.
            TrainingError: If a state cannot be saved, or settings have changed since the training began.
        """
        found = list[CallbackState]()
        for callback, settings in zip(self, self._settings, strict=True):
            with self._explained(callback, "state"):
                found.append(_captured(callback, settings))
        return tuple(found)

    def refuse_others(self, kept: Sequence[CallbackState], advice: str) -> None:
        """Compare with the callbacks with which a training was started.

        Raises:
            TrainingError: If one is missing, extra, of another class, in another place, or has other settings.
        """
        before, now = [each.kind for each in kept], [qualified_name(type(callback)) for callback in self]
        missing, extra = Counter(before) - Counter(now), Counter(now) - Counter(before)
        problems = [f"{kind} is missing" for kind in missing.elements()]
        problems += [f"{kind} is new" for kind in extra.elements()]
        if not problems and before != now:
            problems = [f"the order was {', '.join(before)}, is {', '.join(now)}"]
        if not problems:
            pairs = zip(self, kept, self._settings, strict=True)
            problems = [
                f"{type(callback).__name__}.{text}"
                for callback, each, settings in pairs
                for text in differences(each.settings, settings)
            ]
        if problems:
            raise TrainingError(f"the training was started with other callbacks ({'; '.join(problems)}); {advice}")

    def restore(self, kept: Sequence[CallbackState], device: torch.device) -> None:
        """Give every callback its state.

        Raises:
            CheckpointError: If a state is damaged, or its callback does not take it back.
        """
        self._restored = True
        for callback, each in zip(self, kept, strict=True):
            values = decoded(each, device)
            with self._explained(callback, "load_state"):
                callback.load_state(values)


def _settings_of(callback: Callback) -> dict[str, Any]:
    return described(callback.settings(), f"{type(callback).__name__}.settings()")


def _captured(callback: Callback, settings: Mapping[str, Any]) -> CallbackState:
    """The state of a callback.

    Raises:
        TrainingError: If it cannot be saved, or the settings are no longer `settings`.
    """
    name = type(callback).__name__
    if changed := differences(settings, _settings_of(callback)):
        raise TrainingError(
            f"settings of the callback {name} changed during training ({'; '.join(changed)}), and would not be "
            "restored. What changes is state: a field of the dataclass with init=False, or part of state()"
        )
    values, tensors = encoded(callback.state(), name)
    return CallbackState(qualified_name(type(callback)), settings, values, tensors)
