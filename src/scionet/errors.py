"""The errors a user can meet. Each text says what was given, what is allowed and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 40


class PruneError(ValueError):
    """Root of all errors that scionet raises on purpose."""


class UnsupportedModel(PruneError):
    """The network, or a part of it that was asked for, cannot be pruned."""


class InvalidSetting(PruneError):
    """A setting is malformed, out of range or unknown."""


class MissingExtra(PruneError, ImportError):
    """A package that only a part of scionet needs is not installed; the text has the command to install it."""


class UnreachableBudget(PruneError):
    """No plan meets the budget; the text names the nearest reachable costs."""


class CalibrationError(PruneError):
    """Calibration data are empty, of the wrong shape, or make the network produce NaN or infinite values."""


class LayerCollapse(PruneError):
    """A mask empties a whole layer while other layers keep weights."""


class CollapseWarning(UserWarning):
    """A mask empties a whole layer, or would have without a minimum."""


class TrainingError(PruneError):
    """A training cannot begin or go on: data that do not fit, a loss that is NaN, an optimiser of another network."""


class CheckpointError(PruneError):
    """A file of a network or of a training is damaged, of another network, or of a newer format."""


class VerificationError(PruneError):
    """The cut network does not compute what the masked network computes."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> InvalidSetting:
    """The error for a name that is not in a registry: the nearest names, and all that are allowed unless too many."""
    names = sorted(allowed)
    near = get_close_matches(given, names, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return InvalidSetting(f"unknown {kind} {given!r}; allowed: {', '.join(names[:_SHOWN])}{more}.{hint}")
