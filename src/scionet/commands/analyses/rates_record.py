"""The record of an analysis of rates: what was measured, on what, by which software."""

from dataclasses import dataclass

from scionet.analysis.rates.study import RatesStudy
from scionet.bench.records.provenance import Provenance


@dataclass(frozen=True)
class RatesRecord:
    """A study with its provenance.

    Attributes:
        source: Kind of the source of the pictures.
        pictures: Number of pictures.
        network: The network whose sites were measured.
        seed: Root of all randomness.
        study: The measurements.
        provenance: Software, machine, date and command.
    """

    source: str
    pictures: int
    network: str
    seed: int
    study: RatesStudy
    provenance: Provenance
