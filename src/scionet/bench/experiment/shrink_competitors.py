"""Competitors that shrink a network while it is trained, each with its one-shot twin."""

from dataclasses import dataclass
from typing import Any

from scionet.bench.experiment.competitors import Competitor
from scionet.choices.checking import described, from_description
from scionet.choices.repair import Refit
from scionet.choices.settings import GivenWidths, widths_from
from scionet.choices.shrinking import SHRINKING, Shrinking
from scionet.methods.registry import GivenMethod, describe, method_from
from scionet.sparse_training.registry import SHRINKERS, name_of_shrinking


@dataclass(frozen=True)
class ShrinkCompetitor:
    """A method that shrinks a network while it is trained.

    Attributes:
        method: A name, or a table with a name and parameters.
        towards: The method of `scionet.prune` that chooses the units that stay; None for the method's own ranking.
        widths: How the budget is divided; None for the default.
        name: Name in tables; by default made from the others.
    """

    method: Any
    towards: Any = None
    widths: Any = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Check names and parameters.

        Raises:
            InvalidSetting: If one is not allowed.
        """
        _ = self.choice, self.ranking, self.division

    @property
    def choice(self) -> Shrinking:
        """The method with its settings."""
        return from_description(self.method, SHRINKING, "method of shrink")

    @property
    def ranking(self) -> GivenMethod | None:
        """What chooses the units that stay."""
        return None if self.towards is None else method_from(self.towards)

    @property
    def division(self) -> GivenWidths | None:
        """How the budget is divided."""
        return None if self.widths is None else widths_from(self.widths)

    @property
    def label(self) -> str:
        """Name in tables."""
        ranking = "" if self.towards is None else f" towards {_word(self.towards)}"
        widths = "" if self.widths is None else f" at {_word(self.widths)} widths"
        return self.name or f"{name_of_shrinking(self.choice)}{ranking}{widths}"

    @property
    def summary(self) -> str:
        """Description in one line."""
        return (type(self.choice).__doc__ or "").strip().splitlines()[0]

    @property
    def described(self) -> dict[str, Any]:
        """The choices as JSON."""
        return {
            "method": {**described(self.choice), "name": name_of_shrinking(self.choice)},
            "towards": None if self.ranking is None else describe(self.ranking),
            "widths": None if self.division is None else described(self.division),
        }

    @property
    def twin(self) -> Competitor:
        """The same ranking applied at once, with the same widths and the same repair."""
        kind = SHRINKERS[type(self.choice)]
        given: GivenWidths | None = self.division
        if given is None and self.ranking is None:
            given = "uniform" if kind.needs_counts else "global"
        score = kind.twin if self.ranking is None else self.ranking
        summary = "The units of the same ranking, removed at once."
        return Competitor(f"{self.label}, at once", score, given, (Refit(shrinkage=1.0),), summary)


def _word(given: Any) -> str:
    return str(given.get("name", "")) if isinstance(given, dict) else str(given)
