"""Limits on memory, workers and sampled calibration data, as data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from scionet.choices.checking import Checked, Count, Range

BackendName = Literal["loky", "threading", "sequential", "ray", "dask"]


@dataclass(frozen=True, repr=False)
class Resources(Checked):
    """Memory, workers, and how many examples and positions are sampled."""

    memory_gib: Annotated[float, Range(0)] = 2.0
    """Memory for calibration data and for cached activations, in GiB each. What exceeds it is spilled to disk."""
    batch_size: Count = 64
    """Calibration examples are regrouped into batches of this size."""
    positions: Count = 16
    """Output pixels per example that a convolution is fitted on; all if there are fewer."""
    survey_examples: Count = 1024
    """Examples for error curves and residual streams. Everything else uses all examples."""
    workers: Count | None = None
    """Processes that select from the partitions of objective least_squares. All processors by default."""
    backend: BackendName = "loky"
    """The joblib backend that runs them."""

    @property
    def memory_bytes(self) -> float:
        """The memory in bytes."""
        return self.memory_gib * 2**30
