"""Errors raised by scionet. Each message says what was given, what is allowed and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

from scionet.escaping import printable

_SHOWN = 40


class PruneError(ValueError):
    """Base class of all errors that scionet raises deliberately."""

    def __str__(self) -> str:
        """The message in one line. Control characters, as in the name of a hostile file, are shown as escapes."""
        return printable(super().__str__())


class UnsupportedModel(PruneError):
    """The network, or a requested part of it, is not supported."""


class InvalidSetting(PruneError):
    """A setting is malformed, out of range or unknown."""


class OtherWeights(InvalidSetting):
    """A plan was made for other weights than those of the network."""


class UnsupportedMode(PruneError):
    """A mode of torch is on in which scionet would compute something else; the message names it."""


class MissingExtra(PruneError, ImportError):
    """A package that only a part of scionet needs is not installed; the text has the command to install it."""


class UnreachableBudget(PruneError):
    """Even the narrowest network exceeds the budget; the message names its cost."""


class BudgetExceeded(PruneError):
    """The cut network costs more than the budget allows, as it was counted after the cut."""


class CalibrationError(PruneError):
    """Calibration data are empty, of the wrong shape, or make the network produce NaN or infinite values."""


class LayerCollapse(PruneError):
    """A mask empties a whole layer while other layers keep weights."""


class CollapseWarning(UserWarning):
    """A mask empties a whole layer, or would do so without a minimum per layer."""


class StationarityWarning(UserWarning):
    """A network is not at a minimum of its loss, as an analysis assumes."""


class TrainingError(PruneError):
    """Training cannot start or continue, for example because the data do not fit or the loss is NaN."""


class CheckpointError(PruneError):
    """A checkpoint is damaged, belongs to another network, or has a newer format."""


class VerificationError(PruneError):
    """The cut network does not compute what the masked network computes."""


class AnalysisError(PruneError):
    """An analysis has no result: a solver did not converge, or the network is not what the theory is about."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> InvalidSetting:
    """Error for a name that is not in a registry. Lists the nearest names and the first 40 allowed ones."""
    names = sorted(allowed)
    near = get_close_matches(given, names, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return InvalidSetting(f"unknown {kind} {given!r}; allowed: {', '.join(names[:_SHOWN])}{more}.{hint}")
