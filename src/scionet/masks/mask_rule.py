"""Settings of `mask_weights`."""

import re
from dataclasses import dataclass
from typing import Literal

from scionet.choices.checking import refuse
from scionet.masks.schedule import Schedule

Scope = Literal["global", "isomorphic", "local"]
OnCollapse = Literal["warn", "raise", "allow"]


@dataclass(frozen=True)
class MaskRule:
    """How masks are computed from scores; see `mask_weights`."""

    density: float | None = None
    """Fraction of all maskable weights to keep."""
    scope: Scope = "global"
    """Which weights compete: ``"global"``: all; ``"isomorphic"``: those of layers with equal role and shape;
    ``"local"``: those of each layer. All groups have the same density."""
    pattern: str | None = None
    """N:M pattern in place of a density: ``"2:4"`` keeps 2 of every 4 consecutive inputs."""
    schedule: Schedule | None = None
    """Rounds of scoring and masking. None uses the default of the score."""
    min_per_layer: int = 0
    """Minimum number of weights to keep per layer."""
    inverted: bool = False
    """Whether to keep the weights with the lowest scores: a control, which a score that means something must beat."""
    resurrect: bool = False
    """Whether a weight that was masked in an earlier round may return."""
    on_collapse: OnCollapse = "warn"
    """If a layer is emptied: raise a `CollapseWarning`, raise an error, or only mention it in the report."""
    temperature: float | None = None
    """Divisor of the logits. None uses the default of the score."""
    seed: int = 0
    """Seed of all randomness."""

    def __post_init__(self) -> None:
        """Check ranges and combinations.

        Raises:
            InvalidSetting: If a value is not allowed; all problems are listed.
        """
        match = None if self.pattern is None else re.fullmatch(r"([1-9]\d*):([1-9]\d*)", str(self.pattern))
        checks = {
            "give either density or pattern": (self.density is None) != (self.pattern is None),
            "density must lie in (0, 1]": self.density is None or 0 < self.density <= 1,
            "scope must be 'global', 'isomorphic' or 'local'": self.scope in ("global", "isomorphic", "local"),
            "pattern must be N:M with N below M, such as '2:4'": self.pattern is None
            or (match is not None and int(match[1]) < int(match[2])),
            "pattern cannot be combined with schedule or min_per_layer": self.pattern is None
            or (self.schedule is None and not self.min_per_layer),
            "min_per_layer must be a whole number of at least 0": isinstance(self.min_per_layer, int)
            and self.min_per_layer >= 0,
            "on_collapse must be 'warn', 'raise' or 'allow'": self.on_collapse in ("warn", "raise", "allow"),
            "temperature must be above 0": self.temperature is None or self.temperature > 0,
            "seed must be a whole number of at least 0": isinstance(self.seed, int) and self.seed >= 0,
        }
        refuse(self, checks)

    @property
    def pattern_sizes(self) -> tuple[int, int]:
        """N and M of the pattern."""
        n, _, m = str(self.pattern).partition(":")
        return int(n), int(m)
