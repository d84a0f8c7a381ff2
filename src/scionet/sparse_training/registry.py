"""The methods that shrink a network while it is trained, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from scionet.choices.checking import chosen
from scionet.choices.shrinking import (
    SHRINKING,
    Directional,
    GReg1,
    GReg2,
    IncReg,
    Shrinking,
    Slimming,
    SoftFilters,
    SparseStructures,
)
from scionet.sparse_training.directional import DirectionalShrinker
from scionet.sparse_training.regularised import GRegShrinker, IncRegShrinker
from scionet.sparse_training.shrinker import Shrinker
from scionet.sparse_training.slimming import SlimmingShrinker
from scionet.sparse_training.soft_filters import SoftFiltersShrinker
from scionet.sparse_training.sparse_structures import SparseStructuresShrinker

SHRINKERS: Mapping[type, type[Shrinker]] = MappingProxyType(
    {
        Slimming: SlimmingShrinker,
        SparseStructures: SparseStructuresShrinker,
        SoftFilters: SoftFiltersShrinker,
        IncReg: IncRegShrinker,
        GReg1: GRegShrinker,
        GReg2: GRegShrinker,
        Directional: DirectionalShrinker,
    }
)
"""The callback of each method."""

GivenShrinking = str | Shrinking
"""A method's name, or the method with its settings."""


def shrinking_from(given: GivenShrinking) -> Shrinking:
    """A method from its name, or as it was given.

    Raises:
        InvalidSetting: If there is no such method.
    """
    return chosen(given, SHRINKING, "method of shrink")


def name_of_shrinking(choice: Shrinking) -> str:
    """The name of a method."""
    return next(name for name, kind in SHRINKING.items() if type(choice) is kind)
