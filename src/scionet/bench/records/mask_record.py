"""Which single weights a recorded network keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scionet.bench.records.record_files import RecordError


@dataclass(frozen=True)
class MaskRecord:
    """The number of single weights that a network keeps.

    Attributes:
        layers: Number of kept weights and of all weights, by parameter.
        macs: Multiply-accumulate operations per example if zeros are skipped.
    """

    layers: Mapping[str, tuple[int, int]] = field(hash=False)
    macs: float

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            RecordError: If no weight is kept, or a count is out of range.
        """
        fits = all(0 <= kept <= size and size > 0 for kept, size in self.layers.values())
        if not fits or not self.kept or self.macs < 0:
            raise RecordError(
                f"masks need 0 <= kept <= size in every layer, at least one kept weight, and MACs of 0 or more; given "
                f"{dict(self.layers)} and {self.macs}"
            )

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        return sum(kept for kept, _ in self.layers.values())

    @property
    def size(self) -> int:
        """Number of all weights that may be masked."""
        return sum(size for _, size in self.layers.values())

    @property
    def density(self) -> float:
        """Fraction of weights kept."""
        return self.kept / self.size

    @property
    def compression(self) -> float:
        """Number of all weights divided by that of kept weights."""
        return self.size / self.kept

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Layers without a kept weight."""
        return tuple(name for name, (kept, _) in self.layers.items() if not kept)
