"""Predicted beside measured latency of a pruned network."""

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
    """How long a forward pass takes, before and after.

    Attributes:
        predicted_dense_ms: What the latency table says of the dense network, milliseconds.
        predicted_pruned_ms: What it says of the pruned one.
        dense: What the dense network took.
        pruned: What the pruned one took, in turns with it.
        origin: Where the table was measured, and of what.
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
        """The report of a pruned network, with as many threads as torch may use now; None without a latency table.

        Args:
            costs: The cost of the network at any widths.
            widths: What each site keeps.
            dense: The network before.
            pruned: The network after.
            inputs: The batch whose latency counts.
        """
        before_ms, after_ms = costs.dense.latency_ms, costs.cost(widths).latency_ms
        if costs.table is None or before_ms is None or after_ms is None:
            return None
        models = {"dense": dense, "pruned": pruned}
        times = latency(models, inputs, repeats=costs.table.repeats, threads=torch.get_num_threads())
        return cls(before_ms, after_ms, times["dense"], times["pruned"], costs.table.origin)

    def __str__(self) -> str:
        """The report for a person to read."""
        predicted = self.predicted_pruned_ms / self.predicted_dense_ms
        return (
            f"latency {self.predicted_dense_ms:.4g} ms -> {self.predicted_pruned_ms:.4g} ms predicted "
            f"({predicted:.1%} kept), by a table of {self.origin}\n"
            f"        {self.dense} -> {self.pruned} measured ({self.pruned.median_ms / self.dense.median_ms:.1%})"
        )
