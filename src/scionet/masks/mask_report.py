"""Report of a masking run."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MaskReport:
    """Counts of kept weights, and layers that need attention.

    Attributes:
        score: Name of the score.
        kept: Number of kept weights and of all weights, by parameter.
        rounds: Number of kept weights after each round.
        collapsed: Parameters that keep no weights, while others do.
        protected: Parameters that would keep fewer weights without `min_per_layer`.
        whole: Parameters that a pattern leaves whole, because their inputs are not a multiple of its group size.
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
        """Human-readable summary."""
        total, before = (sum(numbers) for numbers in zip(*self.kept.values(), strict=True))
        lines = [
            f"{self.score}: {total:,} of {before:,} weights kept ({self.density:.3%}), {len(self.rounds)} round(s)"
        ]
        lines += [f"  {name}: {n:,} of {size:,} ({n / size:.2%})" for name, (n, size) in self.kept.items()]
        notes = {
            "COLLAPSED, no weights left": self.collapsed,
            "kept at the minimum per layer": self.protected,
            "left whole, inputs are not a multiple of the group size": self.whole,
        }
        return "\n".join([*lines, *(f"{text}: {', '.join(names)}" for text, names in notes.items() if names)])
