"""Predicted and measured latency of a pruned network."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from scionet.budget.costs import CostModel
from scionet.budget.latency.durations import Latency
from scionet.budget.latency.origin import Origin
from scionet.budget.latency.timing import latency
from scionet.network.calling import Batch


@dataclass(frozen=True)
class LatencyReport:
    """Duration of a forward pass before and after pruning.

    Attributes:
        predicted_dense_ms: Latency of the dense network by the latency table, milliseconds.
        predicted_pruned_ms: Latency of the pruned network by the latency table.
        dense: Measured latency of the dense network.
        pruned: Measured latency of the pruned network. The measurements of both alternate.
        origin: Network and machine that the table was measured on.
    """

    predicted_dense_ms: float
    predicted_pruned_ms: float
    dense: Latency
    pruned: Latency
    origin: Origin

    @classmethod
    def of(
        cls, costs: CostModel, widths: Mapping[str, int], dense: nn.Module, pruned: nn.Module, inputs: Batch
    ) -> "LatencyReport | None":
        """Measure a pruned network with torch's number of threads. Returns None without a latency table.

        Args:
            costs: The cost of the network at any widths.
            widths: Number of units that each site keeps.
            dense: The network before pruning.
            pruned: The network after pruning.
            inputs: The batch to measure on.
        """
        before_ms, after_ms = costs.dense.latency_ms, costs.cost(widths).latency_ms
        if costs.table is None or before_ms is None or after_ms is None:
            return None
        models = {"dense": dense, "pruned": pruned}
        times = latency(models, inputs, repeats=costs.table.repeats, threads=torch.get_num_threads())
        return cls(before_ms, after_ms, times["dense"], times["pruned"], costs.table.origin)

    def __str__(self) -> str:
        """The report as readable text."""
        predicted = self.predicted_pruned_ms / self.predicted_dense_ms
        return (
            f"latency {self.predicted_dense_ms:.4g} ms -> {self.predicted_pruned_ms:.4g} ms predicted "
            f"({predicted:.1%} kept), by a table of {self.origin}\n"
            f"        {self.dense} -> {self.pruned} measured ({self.pruned.median_ms / self.dense.median_ms:.1%})"
        )
