"""LatencyTable: durations of a network's operations at several widths, measured on one machine and device."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import nn

from scionet.budget.latency.durations import Latency, interval
from scionet.budget.latency.origin import Origin
from scionet.budget.latency.surfaces import Surface, Surfaces, rising
from scionet.budget.latency.timed_operations import Kernel, Use, operations
from scionet.budget.latency.timing import Timer, all_undisturbed, interleaved, stopwatch
from scionet.budget.latency.workbench import Workbench, common_widths, cut_to
from scionet.errors import CalibrationError, InvalidSetting
from scionet.files.atomic import whole_file
from scionet.files.json_dataclasses import build, plain, read, to_json
from scionet.network.calling import Batch, example_count
from scionet.network.guard import guarded
from scionet.network.network import Network
from scionet.network.sites import Sites
from scionet.progress import Progress, silent

FORMAT = 2
"""Version of the file format; raised when an older reader could misread a file."""


@dataclass(frozen=True)
class OperationTimes:
    """Durations of one operation at every combination of the knots of its axes (the last axis fastest).

    Attributes:
        name: Operator and dense shapes.
        knots: The measured fractions of each axis, ascending to 1.
        median_ms: Median time, milliseconds.
        lower_ms: Lower end of its 95 % confidence interval.
        upper_ms: Upper end.
        calls: Each call in one forward pass.
    """

    name: str
    knots: tuple[tuple[float, ...], ...]
    median_ms: tuple[float, ...]
    lower_ms: tuple[float, ...]
    upper_ms: tuple[float, ...]
    calls: tuple[Use, ...]

    def __post_init__(self) -> None:
        """Check that the number of times fits the knots.

        Raises:
            InvalidSetting: If it does not.
        """
        times = list(zip(self.lower_ms, self.median_ms, self.upper_ms, strict=False))
        size = math.prod(map(len, self.knots))
        whole = len(self.lower_ms) == len(self.median_ms) == len(self.upper_ms) == size
        ascending = all(knots and list(knots) == sorted({*knots}) and knots[-1] == 1 for knots in self.knots)
        ordered = all(0 <= low <= middle <= high < math.inf for low, middle, high in times)
        axes = len(self.knots) <= 2 and all(len(call.axes) == len(self.knots) for call in self.calls)
        if not (whole and ascending and ordered and axes):
            raise InvalidSetting(f"the times of {self.name!r} are no table of up to two axes of ascending fractions")

    def surfaces(self, without: Collection[str] = ()) -> list[Surface]:
        """One for each call that is in none of the branches `without`."""
        ms = rising(np.array(self.median_ms).reshape([len(knots) for knots in self.knots]))
        return [
            Surface(call.axes, self.knots, ms) for call in self.calls if not set(without).intersection(call.branches)
        ]


@dataclass(frozen=True)
class NetworkTime:
    """Duration of a whole network.

    Attributes:
        kept: Number of units of each site.
        time: Duration of one forward pass.
    """

    kept: tuple[int, ...]
    time: Latency


@dataclass(frozen=True)
class LatencyTable:
    """Measured durations, which predict the latency of a network at any widths of its sites.

    Every operation that shrinks with a site is timed at a few fractions of its dimensions, each shape once. Times in
    between are interpolated. Operations that go with a residual branch are timed even if they do not shrink. One factor
    and one constant fit the sum to the times of whole networks, measured in the same rounds. The constant is the time
    outside the operations, such as that of the interpreter.

    Attributes:
        origin: Network and machine that the table was measured on.
        repeats: Timed runs of each entry.
        sites: Name and dense width of every site.
        operations: Times of the operations.
        networks: Times of whole networks, the dense one first.
    """

    origin: Origin
    repeats: int
    sites: tuple[tuple[str, int], ...]
    operations: tuple[OperationTimes, ...]
    networks: tuple[NetworkTime, ...]

    def __post_init__(self) -> None:
        """Check that predictions can be fitted to the times of whole networks.

        Raises:
            InvalidSetting: If none was timed, or widths or operations do not fit the sites.
        """
        widths = dict(self.sites)
        uses = [call for operation in self.operations for call in operation.calls]
        shares = [share for call in uses for axis in call.axes for share in axis.shares]
        if len(widths) < len(self.sites) or any(site not in widths or not 0 <= part <= 1 for site, part in shares):
            raise InvalidSetting("operations of a latency table must shrink with its sites, by fractions from 0 to 1")
        if not self.networks or not all(_fit(network.kept, widths) for network in self.networks):
            raise InvalidSetting(
                "a latency table needs the time of a whole network or more, with a width of every site"
            )

    @classmethod
    @guarded
    def measure(
        cls,
        model: nn.Module,
        example_inputs: Batch,
        sites: Sites,
        *,
        repeats: int = 9,
        warmup: int = 1,
        watch: Callable[..., Timer] = stopwatch,
        progress: Progress = silent,
    ) -> "LatencyTable":
        """Time the operations of a network, with torch's current number of threads.

        Each round times every entry once; entries of similar width follow each other in the order of the network. Each
        operation gets newly written tensors while those of the previous operation still exist. The state of memory and
        caches is then similar to that within a network.

        Args:
            model: The network; it is not changed.
            example_inputs: The batch to measure on.
            sites: The network's sites.
            repeats: Timed runs of each entry.
            warmup: Runs before those, not timed.
            watch: Makes a timer for a device and a number of runs in a row; see
                `scionet.budget.latency.timing.stopwatch`.
            progress: Receives the number of rounds done.

        Raises:
            CalibrationError: If the inputs contain no example.
            InvalidSetting: If a number is out of range.
        """
        network = Network(model, sites)
        batch = network.placed(example_inputs)
        if not example_count(batch):
            raise CalibrationError("latency of no example; give example inputs with a batch size of at least one")
        uses = operations(network, batch)
        networks = {kept: cut_to(model, sites, kept) for kept in common_widths(sites)}
        entries = Workbench(network.device, watch, batch).in_order(uses, networks)
        with all_undisturbed(networks.values()):
            times = interleaved(entries, repeats, warmup, progress)
        return cls(
            Origin.here(network, batch),
            repeats,
            tuple((name, site.width) for name, site in sites.items()),
            tuple(_operation_times(kernel, calls, times) for kernel, calls in uses.items()),
            tuple(NetworkTime(kept, Latency.of(times[kept], example_count(batch))) for kept in networks),
        )

    def __str__(self) -> str:
        """The table as readable text."""
        entries = sum(len(operation.median_ms) for operation in self.operations)
        return (
            f"latency table of {entries} entries for {len(self.operations)} operations, {self.origin}; whole networks "
            f"are predicted to {self.error:.1%}"
        )

    @cached_property
    def surfaces(self) -> Surfaces:
        """The latency of the whole network as a function of widths."""
        return self._plain.scaled(*self._correction)

    def surfaces_for(self, sites: Sites) -> Surfaces:
        """The latency as a function of the widths of these sites, which may be without some branches."""
        if not sites.dropped:
            return self.surfaces
        surfaces = (surface for operation in self.operations for surface in operation.surfaces(sites.dropped))
        return Surfaces.build(surfaces, {name: site.width for name, site in sites.items()}).scaled(*self._correction)

    @cached_property
    def _correction(self) -> tuple[float, float]:
        """The constant and the factor by which the sum of the operations fits the whole networks best."""
        from scipy.optimize import nnls  # half a second to import

        measured = np.array([network.time.median_ms for network in self.networks])
        # Relative errors are minimised, so that narrow networks weigh as much as the dense one.
        (constant_ms, scale), _ = nnls(np.stack([1 / measured, self._sums / measured], axis=1), np.ones(len(measured)))
        return float(constant_ms), float(scale)

    @property
    def error(self) -> float:
        """Largest relative error of the predicted latency of the whole networks that were measured."""
        predicted = [self.surfaces.evaluate(np.array(network.kept))[0] for network in self.networks]
        pairs = zip(predicted, self.networks, strict=True)
        return max(abs(ms / network.time.median_ms - 1) for ms, network in pairs)

    @cached_property
    def _plain(self) -> Surfaces:
        """The sum of the operations as they were timed, without the correction by whole networks."""
        surfaces = (surface for operation in self.operations for surface in operation.surfaces())
        return Surfaces.build(surfaces, dict(self.sites))

    @property
    def _sums(self) -> np.ndarray:
        return np.array([self._plain.evaluate(np.array(network.kept))[0] for network in self.networks])

    def check_serves(self, model: nn.Module, example_inputs: Batch, sites: Sites) -> None:
        """Refuse a table of another network, batch, type or device.

        Raises:
            InvalidSetting: If any of these differs.
        """
        network = Network(model, sites)
        self.origin.check_serves(Origin.here(network, network.placed(example_inputs)))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the table to a JSON file, completely or not at all.

        Raises:
            InvalidSetting: If the name does not end in .json, or the file exists or cannot be written.
        """
        text = to_json({"format": FORMAT, **plain(self)})
        with whole_file(path, ".json", overwrite=overwrite, error=InvalidSetting) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "LatencyTable":
        """Read a table that `save` wrote.

        Raises:
            InvalidSetting: If the file cannot be read, is damaged, is not a latency table, or has a newer format.
        """
        try:
            content = read(dict, Path(path).read_text(encoding="utf-8"), "table")
            if (given := build(int, content.pop("format", None), "table.format")) <= FORMAT:
                return build(cls, content, "table")
        except OSError as error:
            raise InvalidSetting(f"cannot read the latency table {path}: {error.strerror}") from error
        except ValueError as error:
            raise InvalidSetting(f"{path} is damaged or no latency table: {error}. Measure it again") from error
        raise InvalidSetting(f"{path} has format {given}; this scionet reads formats up to {FORMAT}. Upgrade scionet")


def _fit(kept: Sequence[int], widths: Mapping[str, int]) -> bool:
    """Whether there is one number of units for each site, from 1 to its width."""
    return len(kept) == len(widths) and all(1 <= k <= n for k, n in zip(kept, widths.values(), strict=True))


def _operation_times(kernel: Kernel, calls: Sequence[Use], times: Mapping[Any, Sequence[float]]) -> OperationTimes:
    runs = [times[kernel, point] for point in kernel.points]
    lower, upper = zip(*map(interval, runs), strict=True)
    middle = _rounded([median(values) for values in runs])
    return OperationTimes(kernel.name, kernel.knots, middle, _rounded(lower), _rounded(upper), tuple(calls))


def _rounded(times_ms: Sequence[float]) -> tuple[float, ...]:
    """Times with six significant digits, which halve the size of a file."""
    return tuple(float(f"{ms:.6g}") for ms in times_ms)
