"""The ledger of a run: the cost of everything that led to its result, stage by stage."""

from collections.abc import Iterable
from dataclasses import dataclass

from scionet.bench.records.record_files import RecordError

STAGES = ("dense training", "selection", "tuning", "training", "validation")
"""What a run pays for: training the dense network (if the bench did it), selection with calibration and repair,
trainings at learning rates that were not chosen, the training that was chosen, and evaluation on validation data."""
PASSES = 3
"""Cost of a training step in forward passes: one, and two more for the gradients of activations and weights."""


@dataclass(frozen=True)
class Payment:
    """The cost of one stage of a run.

    Attributes:
        stage: One of `STAGES`.
        images: Examples that went through the network.
        macs: Multiply-accumulate operations. Training counts three forward passes per example. The linear algebra of a
            selection cannot be counted, so its time is converted at the rate of a forward pass of the dense network.
        seconds: Wall-clock time.
    """

    stage: str
    images: int
    macs: float
    seconds: float

    def __post_init__(self) -> None:
        """Check the stage and the ranges.

        Raises:
            RecordError: If the stage is unknown or a number is negative.
        """
        if self.stage not in STAGES or min(self.images, self.macs, self.seconds) < 0:
            raise RecordError(f"a payment is for one of {', '.join(STAGES)}, with numbers of 0 or more; given {self}")


def total(ledger: Iterable[Payment], stage: str | None = None) -> tuple[int, float, float]:
    """Sum the images, MACs and seconds of one stage, or of all stages."""
    entries = [payment for payment in ledger if stage in (None, payment.stage)]
    return sum(p.images for p in entries), sum(p.macs for p in entries), sum(p.seconds for p in entries)
