"""Constraints on pruning in addition to the budget, as data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scionet.choices.checking import Checked, Count


@dataclass(frozen=True, repr=False)
class Limits(Checked):
    """Bounds on the widths, and layers that stay whole."""

    round_to: Count = 1
    """Kept widths are multiples of this; 8 suits most hardware. Numbers of heads are not rounded."""
    min_units: Count = 1
    """The fewest units that a site keeps."""
    ignored_layers: Sequence[Any] = ()
    """Layers whose channels all stay: module names, shell globs of names, module types, or modules."""
