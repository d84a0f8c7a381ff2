"""How masks are made of scores, as data."""

import re
from dataclasses import dataclass
from typing import Literal

from scionet.choices.checking import refuse
from scionet.masks.schedule import Schedule

Scope = Literal["global", "isomorphic", "local"]
OnCollapse = Literal["warn", "raise", "allow"]


@dataclass(frozen=True)
class MaskRule:
    """What `mask_weights` is asked for; see there."""

    density: float | None = None
    """Fraction of all maskable weights that stay."""
    scope: Scope = "global"
    """Weights compete in the whole network; within layers of equal role and shape, all such groups at one density; or
    within each layer, at one density."""
    pattern: str | None = None
    """``"2:4"`` keeps 2 of every 4 consecutive inputs; in place of a density."""
    schedule: Schedule | None = None
    """The rounds; None takes those of the score."""
    min_per_layer: int = 0
    """Weights that stay in each layer at least."""
    resurrect: bool = False
    """Whether a weight that an earlier round masked may come back."""
    on_collapse: OnCollapse = "warn"
    """What happens where a layer is emptied: a `CollapseWarning`, an error, or nothing but a line of the report."""
    temperature: float | None = None
    """What logits are divided by; None takes that of the score."""
    seed: int = 0
    """Root of all randomness."""

    def __post_init__(self) -> None:
        """Check ranges and combinations.

        Raises:
            InvalidSetting: If a value is out of range; all problems are listed.
        """
        match = None if self.pattern is None else re.fullmatch(r"([1-9]\d*):([1-9]\d*)", str(self.pattern))
        checks = {
            "give either a density or a pattern": (self.density is None) != (self.pattern is None),
            "density lies above 0 and is at most 1": self.density is None or 0 < self.density <= 1,
            "scope is 'global', 'isomorphic' or 'local'": self.scope in ("global", "isomorphic", "local"),
            "pattern is a text N:M with N below M, such as '2:4'": self.pattern is None
            or (match is not None and int(match[1]) < int(match[2])),
            "a pattern is made in one round, without schedule or min_per_layer": self.pattern is None
            or (self.schedule is None and not self.min_per_layer),
            "min_per_layer is a whole number of 0 or more": isinstance(self.min_per_layer, int)
            and self.min_per_layer >= 0,
            "on_collapse is 'warn', 'raise' or 'allow'": self.on_collapse in ("warn", "raise", "allow"),
            "temperature is above 0": self.temperature is None or self.temperature > 0,
            "seed is a whole number from 0 on": isinstance(self.seed, int) and self.seed >= 0,
        }
        refuse(self, checks)

    @property
    def of(self) -> tuple[int, int]:
        """N and M of the pattern."""
        n, _, m = str(self.pattern).partition(":")
        return int(n), int(m)
