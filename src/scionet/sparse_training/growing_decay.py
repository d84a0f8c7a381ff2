"""GReg on numbers: when the weight decay of picked units grows, is held, and ends with their removal."""

from dataclasses import dataclass
from typing import Literal

Phase = Literal["pick", "grow", "hold", "done"]
_KEEP = 0.9
"""Decay of the average of the ratio of kept to picked weights."""
_SEPARATED = 1000.0
"""Ratio of the mean kept to the mean picked weight from which the picked ones count as gone."""
_ROUNDING = 1e-9


@dataclass
class GrowingDecay:
    """The common weight decay of picked units, update by update (GReg; Wang et al., ICLR 2021, official code).

    The decay first grows on all units, if `pick_ceiling` is above 0 (GReg-2), and then on the picked ones, until it
    reaches the ceiling or the picked weights are a thousand times smaller than the others in every layer. It is then
    held.

    Attributes:
        increment: What one update adds in phase "grow".
        ceiling: Where it stops growing.
        hold_updates: Updates in phase "hold".
        pick_increment: What one update adds in phase "pick".
        pick_ceiling: Where phase "pick" ends; 0 to begin with phase "grow".
        decay: Current decay: of all units in phase "pick", of the picked units afterwards.
        ratio: Average of the smallest ratio of kept to picked weights over the sites.
        held: Updates done in phase "hold".
        phase: The current phase.
    """

    increment: float
    ceiling: float
    hold_updates: int
    pick_increment: float = 0.0
    pick_ceiling: float = 0.0
    decay: float = 0.0
    ratio: float = 1.0
    held: int = 0
    phase: Phase | None = None

    def __post_init__(self) -> None:
        """Begin with phase "pick" if there is one."""
        if self.phase is None:
            self.phase = "pick" if self.pick_ceiling > 0 else "grow"

    def update(self, ratio: float) -> None:
        """Take one step.

        Args:
            ratio: The mean kept weight over the mean picked one, the smallest over all sites; not used in "pick".
        """
        if self.phase == "pick":
            self.decay += self.pick_increment
            if self.decay >= self.pick_ceiling * (1 - _ROUNDING):
                self.phase = "grow"
        elif self.phase == "grow":
            self.decay += self.increment
            self.ratio = _KEEP * self.ratio + (1 - _KEEP) * min(ratio, 1e12)
            if self.decay >= self.ceiling * (1 - _ROUNDING) or self.ratio >= _SEPARATED:
                self.phase = "hold"
        elif self.phase == "hold":
            self.held += 1
            if self.held >= self.hold_updates:
                self.phase = "done"
