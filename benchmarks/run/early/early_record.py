"""The record of one run of early_pruning.py."""

from collections.abc import Mapping
from dataclasses import dataclass

from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import RecordError
from scionet.files.json_dataclasses import read

DENSE = "dense"
"""Stands for the method where no filter is removed."""
VALIDATED = 2_500
"""Images of the validation part."""


@dataclass(frozen=True)
class Round:
    """One round of pruning.

    Attributes:
        epoch: Epochs trained before it.
        kept: Filters that remain in the whole network.
        norms: Gradient norm before the round, in eval mode and as in training; then both after the round.
    """

    epoch: int
    kept: int
    norms: tuple[float, float, float, float]


@dataclass(frozen=True)
class EarlyRecord:
    """The record of one run.

    Attributes:
        network: Name of the network.
        method: Score that filters were ranked by; ``"dense"`` where none was removed.
        rounds: Number of rounds.
        seed: Seed of weights, examples, their order, and random scores.
        density: Fraction of filters kept.
        steps: The rounds of pruning.
        widths: Filters before and after, by site.
        macs: MACs per example, before and after.
        params: Parameters, before and after.
        losses: Training loss of each epoch.
        validation: Validation images classified correctly after each epoch.
        correct: Test images classified correctly at the end.
        seen: Number of test images.
        answers: Which test images were classified correctly; see `scionet.bench.records.record.encode_answers`.
        seconds: Processor time, without the epoch that all runs of a seed share.
        provenance: Software, machine, date and command.
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
        """Name of the run's own file."""
        return file_name(self.network, self.method, self.rounds, self.seed)

    @classmethod
    def from_json(cls, text: str, source: str = "text") -> "EarlyRecord":
        """Read a record from its JSON text; `source` names the place in error texts.

        Raises:
            RecordError: If the text is damaged or no such record.
        """
        try:
            return read(cls, text)
        except ValueError as error:
            raise RecordError(f"{source} is damaged: {error}; remove it, and run the benchmark again") from error


def file_name(network: str, method: str, rounds: int, seed: int) -> str:
    """Name of the file of a run."""
    words = "".join(c if c.isalnum() else " " for c in f"{network} {method}".lower()).split()
    return f"{'-'.join(words)}_{rounds}_seed{seed}.json"
