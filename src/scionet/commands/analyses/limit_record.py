"""The record of an analysis of the limit of pruning: what was predicted and measured, on what, by which software."""

from dataclasses import dataclass

from scionet.analysis.limit.measured import Measured
from scionet.analysis.limit.network_limit import PruningLimit
from scionet.analysis.limit.subspaces import Transition
from scionet.bench.records.provenance import Provenance


@dataclass(frozen=True)
class NetworkLimit:
    """One network.

    Attributes:
        name: The network.
        predicted: The limit from the curvature of its loss.
        one_shot: Loss after pruning by magnitude at once; None if it was not measured.
        reoptimised: Loss after the kept weights were optimised again; None if it was not measured.
    """

    name: str
    predicted: PruningLimit
    one_shot: Measured | None
    reoptimised: Measured | None


@dataclass(frozen=True)
class LimitRecord:
    """Predictions and measurements with their provenance.

    Attributes:
        source: Kind of the source of the pictures.
        pictures: Number of pictures.
        batch_size: Pictures of a batch; the tolerance depends on it where it is the spread over batches.
        tolerance: The rule for the tolerance.
        seed: Root of all randomness.
        subspaces: Random subspaces, without a network.
        networks: The networks.
        provenance: Software, machine, date and command.
    """

    source: str
    pictures: int
    batch_size: int
    tolerance: str
    seed: int
    subspaces: tuple[Transition, ...]
    networks: tuple[NetworkLimit, ...]
    provenance: Provenance
