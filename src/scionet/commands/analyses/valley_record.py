"""The record of an analysis of a valley: what was measured, on what, by which software."""

from dataclasses import dataclass

from scionet.analysis.valley import Valley
from scionet.bench.records.provenance import Provenance


@dataclass(frozen=True)
class Segment:
    """A segment from the network to another one.

    Attributes:
        name: The other network.
        valley: Loss and accuracy along it.
    """

    name: str
    valley: Valley


@dataclass(frozen=True)
class ValleyRecord:
    """Segments with their provenance.

    Attributes:
        source: Kind of the source of the pictures.
        pictures: Number of pictures.
        network: The network at the first end.
        seed: Root of all randomness.
        segments: The measurements.
        provenance: Software, machine, date and command.
    """

    source: str
    pictures: int
    network: str
    seed: int
    segments: tuple[Segment, ...]
    provenance: Provenance
