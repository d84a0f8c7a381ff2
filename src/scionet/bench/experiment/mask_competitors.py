"""Competitors that choose single weights: a score, and how masks follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scionet.choices.checking import described
from scionet.errors import unknown
from scionet.masks.mask_rule import MaskRule, Scope
from scionet.masks.schedule import Schedule
from scionet.masks.scores import SCORES


@dataclass(frozen=True)
class MaskCompetitor:
    """A score of single weights, and how masks follow from it.

    Attributes:
        score: Name of the score.
        schedule: Rounds of scoring and masking; None for those of the score.
        scope: Which weights compete.
        inverted: Whether the weights with the lowest scores are kept: a control of the score.
        min_per_layer: The fewest weights that each layer keeps.
        ignored_layers: Layers that stay whole: names or globs.
    """

    score: str
    schedule: Schedule | None = None
    scope: Scope = "global"
    inverted: bool = False
    min_per_layer: int = 0
    ignored_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the name and the ranges.

        Raises:
            InvalidSetting: If the score is unknown or a value is out of range.
        """
        if self.score not in SCORES:
            raise unknown("weight score", self.score, SCORES)
        MaskRule(1.0, **self.rule)

    @property
    def label(self) -> str:
        """Name in tables: the score, and what differs from the defaults."""
        changes = (
            "inverted" if self.inverted else "",
            self.schedule.words if self.schedule else "",
            "" if self.scope == "global" else self.scope,
            f"at least {self.min_per_layer} per layer" if self.min_per_layer else "",
            f"{' and '.join(self.ignored_layers)} whole" if self.ignored_layers else "",
        )
        return ", ".join([self.score, *filter(None, changes)])

    @property
    def summary(self) -> str:
        """Description in one line."""
        end = "lowest" if self.inverted else "highest"
        return f"Single weights with the {end} scores of {self.score!r}."

    @property
    def rule(self) -> Mapping[str, Any]:
        """Keyword arguments of `scionet.mask_weights`, without the density."""
        return {
            "schedule": self.schedule,
            "scope": self.scope,
            "inverted": self.inverted,
            "min_per_layer": self.min_per_layer,
        }

    @property
    def uses_labels(self) -> bool:
        """Whether the score uses calibration examples."""
        return SCORES[self.score].uses_labels

    @property
    def described(self) -> dict[str, Any]:
        """The choices as JSON."""
        return described(self)
