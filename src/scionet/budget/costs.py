"""The cost of a network: measured on a model, or predicted for any widths without cutting."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from torch import nn

from scionet.budget.forms import Forms
from scionet.budget.latency.table import LatencyTable
from scionet.errors import CalibrationError, InvalidSetting, unknown
from scionet.network.branches import remaining
from scionet.network.calling import Batch, example_count
from scionet.network.guard import guarded
from scionet.network.network import Network
from scionet.network.operations import macs_by_place, run_operations
from scionet.network.sites import Sites
from scionet.typing import FloatArray, IntArray


@dataclass(frozen=True)
class Cost:
    """The cost of a network.

    Attributes:
        macs: Multiply-accumulates of one forward pass, per example.
        params: Number of parameter entries; tied parameters count once.
        latency_ms: Predicted time of one forward pass of the batch that a latency table was measured on, milliseconds;
            None without a table.
    """

    macs: float
    params: int
    latency_ms: float | None = None

    def __str__(self) -> str:
        """The cost as readable text."""
        counted = f"{self.macs / 1e6:,.4g}M MACs, {self.params / 1e6:,.4g}M parameters"
        return counted if self.latency_ms is None else f"{counted}, {self.latency_ms:,.4g} ms"


@guarded
def measure(model: nn.Module, example_inputs: Batch, uncounted: Collection[str] = ()) -> Cost:
    """Measure the cost of a model, counted by torch at the operator level. The model is not changed.

    Convolutions and matrix products count in modules of any class. Elementwise operations do not count. Fused recurrent
    layers (such as ``nn.LSTM``) do not count either, because torch's counter does not count them.

    Args:
        model: The network.
        example_inputs: Its inputs.
        uncounted: Places whose MACs are left out, such as `Sites.uncounted`; see
            `scionet.network.operations.counting_place`.

    Raises:
        CalibrationError: If the inputs hold no example.
    """
    examples = example_count(example_inputs)
    if examples == 0:
        raise CalibrationError("the example inputs have batch size 0; give at least one example")
    macs = macs_by_place(run_operations(Network(model), example_inputs))
    total = sum(count for place, count in macs.items() if place not in uncounted)
    return Cost(total / examples, sum(parameter.numel() for parameter in model.parameters()))


class CostPart(Protocol):
    """Some quantities of a network's cost as functions of the widths of its sites.

    Widths are arrays of shape ``(site,)``. A *move* changes the width of one site.
    """

    def evaluate(self, kept: IntArray) -> FloatArray:
        """Costs at the given widths, shape ``(quantity,)``."""
        ...

    def shifts(self, kept: IntArray, site: IntArray, step: IntArray) -> FloatArray:
        """The change of cost by single moves, for many moves at once.

        Args:
            kept: The widths to start from, shape ``(site,)``.
            site: Position of the site that each move changes, shape ``(move,)``.
            step: What each move adds to the site's width (negative: takes away), shape ``(move,)``.

        Returns:
            Differences of cost, shape ``(quantity, move)``.
        """
        ...

    def interactions(
        self, kept: IntArray, site: IntArray, step: IntArray, other: IntArray, other_step: IntArray
    ) -> FloatArray:
        """The interaction of two moves of different sites: the change of cost by both, minus the sum of each alone.

        Returns:
            Shape ``(quantity, move, other move)``; entries for two moves of the same site mean nothing.
        """
        ...


@dataclass(frozen=True, eq=False)
class CostModel:
    """The cost of a network at any widths of its sites, without cutting it.

    MACs and parameters are exact. Latency is predicted from a table, if one is given.

    Attributes:
        sites: The sites of the network.
        table: Measured times of its operations.
        whole: The cost of the whole network, where these are the sites without some branches.
    """

    sites: Sites
    table: LatencyTable | None = None
    whole: Cost | None = None

    @property
    def quantities(self) -> tuple[str, ...]:
        """The fields of `Cost` that are known, in the order of every array of quantities."""
        return ("macs", "params") if self.table is None else ("macs", "params", "latency_ms")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the sites, in the order of every array of widths."""
        return tuple(self.sites)

    @cached_property
    def full(self) -> IntArray:
        """Width of each dense site, shape ``(site,)``."""
        return np.array([site.width for site in self.sites.values()], dtype=np.int64)

    @cached_property
    def dense(self) -> Cost:
        """The cost of the whole network."""
        return self.cost({}) if self.whole is None else self.whole

    def without(self, dropped: Mapping[str, Any]) -> "CostModel":
        """The cost without some branches, at any widths of the sites that remain.

        Args:
            dropped: By name of the branch, what takes its place; None for nothing, which has no parameters.

        Raises:
            InvalidSetting: If there is no such branch, or one lies in another.
        """
        return CostModel(remaining(self.sites, dropped), self.table, self.dense) if dropped else self

    def cost(self, widths: Mapping[str, int]) -> Cost:
        """The cost at the given widths; sites that are not named stay whole.

        Raises:
            InvalidSetting: If a site is unknown or a width is not between 0 and the site's own.
        """
        for name, width in widths.items():
            if name not in self.sites:
                raise unknown("site", name, self.names)
            if not 0 <= width <= self.sites[name].width:
                raise InvalidSetting(f"site {name!r} cannot keep {width} units; allowed: 0..{self.sites[name].width}")
        kept = np.array([widths.get(name, site.width) for name, site in self.sites.items()], dtype=np.int64)
        macs, params, *latency_ms = self.evaluate(kept).tolist()
        return Cost(macs, round(params), *latency_ms)

    def evaluate(self, kept: IntArray) -> FloatArray:
        """See `CostPart`."""
        return np.concatenate([part.evaluate(kept) for part in self._parts])

    def shifts(self, kept: IntArray, site: IntArray, step: IntArray) -> FloatArray:
        """See `CostPart`."""
        return np.concatenate([part.shifts(kept, site, step) for part in self._parts])

    def interactions(
        self, kept: IntArray, site: IntArray, step: IntArray, other: IntArray, other_step: IntArray
    ) -> FloatArray:
        """See `CostPart`."""
        return np.concatenate([part.interactions(kept, site, step, other, other_step) for part in self._parts])

    @cached_property
    def _parts(self) -> tuple[CostPart, ...]:
        counted = Forms(self.sites)
        return (counted,) if self.table is None else (counted, self.table.surfaces_for(self.sites))
