"""The ledger: what a run has paid, for everything that led to its result."""

from collections.abc import Iterable
from dataclasses import dataclass

from scionet.bench.records.record_files import RecordError

STAGES = ("dense training", "selection", "tuning", "training", "validation")
"""What is paid for: the dense network (if it was trained here), the choice of the architecture with calibration and
repair, trainings at learning rates that were not chosen, the one that was, and measuring on validation data."""
PASSES = 3
"""Forward passes that a training step costs: itself, and twice as much for the gradients of activations and weights."""


@dataclass(frozen=True)
class Payment:
    """What one stage of a run has cost.

    Attributes:
        stage: One of `STAGES`.
        images: Examples that went through the network.
        macs: Multiply-accumulate operations. Of trainings counted: three forward passes of an example. Of a selection,
            whose algebra no counter sees, by its time at the rate of a forward pass of the dense network.
        seconds: Wall-clock time.
    """

    stage: str
    images: int
    macs: float
    seconds: float

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            RecordError: If the stage is unknown, or a number negative.
        """
        if self.stage not in STAGES or min(self.images, self.macs, self.seconds) < 0:
            raise RecordError(f"a payment is for one of {', '.join(STAGES)}, with numbers of 0 or more; given {self}")


def total(ledger: Iterable[Payment], stage: str | None = None) -> tuple[int, float, float]:
    """Images, MACs and seconds of one stage, or of all."""
    entries = [payment for payment in ledger if stage in (None, payment.stage)]
    return sum(p.images for p in entries), sum(p.macs for p in entries), sum(p.seconds for p in entries)
