"""What masking did, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MaskReport:
    """What masking did.

    Attributes:
        score: Name of the score.
        kept: Weights kept and there were, by parameter.
        rounds: Weights kept after each round.
        collapsed: Parameters that keep none, while others do.
        protected: Parameters that keep as few as `min_per_layer` asks for, and might keep fewer without.
        whole: Parameters that a pattern leaves whole, because their inputs do not divide into its groups.
    """

    score: str
    kept: Mapping[str, tuple[int, int]]
    rounds: tuple[int, ...]
    collapsed: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()

    @property
    def density(self) -> float:
        """Fraction of weights kept."""
        return sum(n for n, _ in self.kept.values()) / sum(n for _, n in self.kept.values())

    def __str__(self) -> str:
        """The report for a person to read."""
        total, before = (sum(numbers) for numbers in zip(*self.kept.values(), strict=True))
        lines = [
            f"{self.score}: {total:,} of {before:,} weights kept ({self.density:.3%}), {len(self.rounds)} round(s)"
        ]
        lines += [f"  {name}: {n:,} of {size:,} ({n / size:.2%})" for name, (n, size) in self.kept.items()]
        notes = {
            "COLLAPSED, no weight left": self.collapsed,
            "held at the minimum per layer": self.protected,
            "left whole, inputs do not divide into groups": self.whole,
        }
        return "\n".join([*lines, *(f"{text}: {', '.join(names)}" for text, names in notes.items() if names)])
