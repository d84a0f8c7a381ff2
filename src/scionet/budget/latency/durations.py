"""The median of repeated timings, with its confidence interval. Does not import torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import comb
from statistics import median

from scionet.errors import InvalidSetting

CONFIDENCE = 0.95
"""Confidence of the intervals."""


@dataclass(frozen=True)
class Latency:
    """Duration of one forward pass.

    Attributes:
        median_ms: Median over repeats, milliseconds.
        lower_ms: Lower end of its 95 % confidence interval; see `interval`.
        upper_ms: Upper end.
        batch_size: Examples in the batch.
    """

    median_ms: float
    lower_ms: float
    upper_ms: float
    batch_size: int

    def __post_init__(self) -> None:
        """Check that the times are in order.

        Raises:
            InvalidSetting: If the times are not positive and ascending.
        """
        if not 0 < self.lower_ms <= self.median_ms <= self.upper_ms:
            raise InvalidSetting(
                f"latency needs 0 < lower <= median <= upper in ms; given "
                f"{self.lower_ms}, {self.median_ms}, {self.upper_ms}"
            )

    def __str__(self) -> str:
        """The time as readable text."""
        return f"{self.median_ms:.4g} ms ({self.lower_ms:.4g} to {self.upper_ms:.4g})"

    @classmethod
    def of(cls, times_ms: Sequence[float], batch_size: int) -> "Latency":
        """The median and interval of repeated timings."""
        lower, upper = interval(times_ms)
        return cls(median(times_ms), lower, upper, batch_size)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A confidence interval of the median from order statistics, for any distribution.

    The number of values below the median is binomial, so the r-th smallest and the r-th largest value enclose it
    unless fewer than r values lie on one side. With fewer than six values even the smallest and the largest do so in
    less than 95 % of all cases; these are returned then.
    """
    ordered, count = sorted(values), len(values)
    tails = accumulate(comb(count, below) / 2**count for below in range(count))
    position = max(1, sum(2 * tail <= 1 - CONFIDENCE for tail in tails))
    return ordered[position - 1], ordered[-position]
