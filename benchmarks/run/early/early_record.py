"""What early_pruning.py records of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import read_value

DENSE = "dense"
"""What stands for the method where no filter is taken away."""

VALIDATED = 2_500
"""Images of the validation part."""


@dataclass(frozen=True)
class Round:
    """One round of pruning.

    Attributes:
        epoch: Epochs trained before it.
        kept: Filters left in the whole network.
        norms: ‖g‖ before, in eval mode and as in training; after, the same.
    """

    epoch: int
    kept: int
    norms: tuple[float, float, float, float]


@dataclass(frozen=True)
class Early:
    """The record of a run.

    Attributes:
        network: Name of the network.
        method: What filters were ranked by; ``"dense"`` where none was taken.
        rounds: Number of rounds.
        seed: Of weights, examples, their order, and random scores.
        density: Fraction of filters that stays.
        steps: The rounds.
        widths: Filters before and after by site.
        macs: MACs per example, before and after.
        params: Parameters, before and after.
        losses: Training loss of each epoch.
        validation: Images of the validation part that were right after each epoch.
        correct: Test images that were right in the end.
        seen: Number of test images.
        answers: Which test images were right; see `scionet.bench.records.record.packed`.
        seconds: Processor time, without what the runs of a seed share.
        provenance: Where it comes from.
    """

    network: str
    method: str
    rounds: int
    seed: int
    density: float
    steps: tuple[Round, ...]
    widths: Mapping[str, tuple[int, int]]
    macs: tuple[int, int]
    params: tuple[int, int]
    losses: tuple[float, ...]
    validation: tuple[int, ...]
    correct: int
    seen: int
    answers: str
    seconds: float
    provenance: Provenance

    @property
    def file_name(self) -> str:
        """Of its record."""
        return file_name(self.network, self.method, self.rounds, self.seed)


def file_name(network: str, method: str, rounds: int, seed: int) -> str:
    """Of the record of a run."""
    words = "".join(c if c.isalnum() else " " for c in f"{network} {method}".lower()).split()
    return f"{'-'.join(words)}_{rounds}_seed{seed}.json"


def load_all(folder: Path) -> list[Early]:
    """All records, in the order of their names."""
    return [read_value(Early, path) for path in sorted(folder.glob("*.json"))]
