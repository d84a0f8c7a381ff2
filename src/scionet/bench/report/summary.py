"""Summary of records: a row per network, budget and method, with mean and standard deviation over seeds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scionet.bench.records.record import RunRecord
from scionet.bench.records.record_files import RecordError
from scionet.budget.latency.durations import Latency
from scionet.files.json_dataclasses import to_json

DENSE = "dense"
"""Stands for the method in the row of the network before pruning."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of one quantity.

    Attributes:
        mean: Mean.
        deviation: Sample standard deviation (n - 1); None for a single value.
    """

    mean: float
    deviation: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Compute mean and deviation of values."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)

    def text(self, digits: int) -> str:
        """``"97.3 ± 0.2"``, or ``"97.3"`` without a deviation."""
        deviation = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        return f"{self.mean:.{digits}f}{deviation}"


@dataclass(frozen=True)
class Measured:
    """The measured fraction of the dense network's latency, in percent; means over runs.

    Attributes:
        mean: Ratio of the medians; the networks ran in alternation.
        low: Lower end of the network's interval divided by the upper end of the dense network's interval.
        high: Upper end divided by the lower end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """Runs that differ by seed only; if `method` is ``"dense"``, the networks before pruning.

    Attributes:
        experiment: Name of the experiment.
        network: Name of the network.
        dataset: Name of the data.
        budget: The budget as text; empty for dense networks.
        method: Name of the method, with the settings that distinguish it from rows of the same name.
        records: The runs, one per seed.
        accuracy: Accuracy, percent.
        macs: MACs kept, percent of the dense network's.
        params: Parameters kept, percent of the dense network's.
        drop: Accuracy lost in each run, percentage points.
        seconds: Time of the selection, seconds.
        speedup: Dense latency divided by pruned latency, if every run has both.
        latency: Latency kept, percent of the dense network's, if every run has both.
        weights: Single weights kept, percent of those that may be masked, if every run has masks.
        sparse_macs: MACs kept if zeros are skipped, percent of the dense network's, if every run has masks.
        emptied: Layers without a kept weight, if every run has masks.
    """

    experiment: str
    network: str
    dataset: str
    budget: str
    method: str
    records: tuple[RunRecord, ...]
    accuracy: Spread
    macs: Spread
    params: Spread
    drop: Spread | None = None
    seconds: Spread | None = None
    speedup: Spread | None = None
    latency: Measured | None = None
    weights: Spread | None = None
    sparse_macs: Spread | None = None
    emptied: Spread | None = None

    @property
    def runs(self) -> int:
        """Number of runs; in a dense row, number of dense networks."""
        return len(self.records)

    @property
    def digits(self) -> int:
        """Decimals of an accuracy in percent that the number of examples justifies."""
        return 2 if min(record.pruned.seen for record in self.records) >= 5000 else 1


def summarise(records: Sequence[RunRecord]) -> tuple[Row, ...]:
    """Rows of all networks: the dense row, then budgets from the widest to the narrowest, with the best method first.

    Raises:
        RecordError: If there are no records, or a run is given twice, which would distort its deviation.
    """
    _refuse_repeats(records)
    names = _method_names(records)
    groups: defaultdict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[*_network(record), record.spec.budget, names[record.spec.run_id]].append(record)
    rows = [_row(key, sorted(group, key=lambda r: r.spec.seed)) for key, group in sorted(groups.items())]
    return tuple(row for network in sorted({key[:3] for key in groups}) for row in _section(network, rows))


def _row(key: tuple[str, ...], records: Sequence[RunRecord]) -> Row:
    experiment, network, dataset, budget, method = key
    timed = _timed(records)
    return Row(
        *(experiment, network, dataset, budget, method, tuple(records)),
        accuracy=Spread.of([100 * r.pruned.accuracy for r in records]),
        macs=Spread.of([100 * r.pruned.macs / r.dense.macs for r in records]),
        params=Spread.of([100 * r.pruned.params / r.dense.params for r in records]),
        drop=Spread.of([100 * (r.dense.accuracy - r.pruned.accuracy) for r in records]),
        seconds=Spread.of([r.seconds for r in records]),
        speedup=Spread.of([dense.median_ms / pruned.median_ms for dense, pruned in timed]) if timed else None,
        latency=_kept(timed) if timed else None,
        **_masked(records),
    )


def _masked(records: Sequence[RunRecord]) -> dict[str, Spread]:
    """What is known of single weights; nothing unless every run has masks."""
    found = [(r.masks, r.dense.macs) for r in records if r.masks is not None]
    if len(found) < len(records):
        return {}
    return {
        "weights": Spread.of([100 * masks.density for masks, _ in found]),
        "sparse_macs": Spread.of([100 * masks.macs / dense for masks, dense in found]),
        "emptied": Spread.of([len(masks.collapsed) for masks, _ in found]),
    }


def _timed(records: Sequence[RunRecord]) -> list[tuple[Latency, Latency]]:
    """Dense and pruned latency of each run; nothing unless every run has both."""
    pairs = [(r.dense.latency, r.pruned.latency) for r in records]
    found = [(dense, pruned) for dense, pruned in pairs if dense and pruned]
    return found if len(found) == len(pairs) else []


def _kept(timed: Sequence[tuple[Latency, Latency]]) -> Measured:
    ratios = [
        (pruned.median_ms / dense.median_ms, pruned.lower_ms / dense.upper_ms, pruned.upper_ms / dense.lower_ms)
        for dense, pruned in timed
    ]
    return Measured(*(100 * float(mean) for mean in np.mean(ratios, axis=0)))


def _section(network: tuple[str, ...], rows: Sequence[Row]) -> list[Row]:
    """The rows of one network in their final order."""
    own = [row for row in rows if (row.experiment, row.network, row.dataset) == network]
    costs = {row.budget: max((r.macs.mean, r.params.mean) for r in own if r.budget == row.budget) for row in own}
    own.sort(key=lambda row: (*(-c for c in costs[row.budget]), row.budget, -row.accuracy.mean, row.method))
    dense = tuple({(r.dense_hash, r.dense.correct, r.dense.seen): r for row in own for r in row.records}.values())
    accuracy = Spread.of([100 * record.dense.accuracy for record in dense])
    experiment, name, dataset = network
    return [Row(experiment, name, dataset, "", DENSE, dense, accuracy, Spread(100.0), Spread(100.0)), *own]


def _network(record: RunRecord) -> tuple[str, str, str]:
    return record.spec.experiment, record.spec.network, record.spec.dataset


def _refuse_repeats(records: Sequence[RunRecord]) -> None:
    if not records:
        raise RecordError("no records to report on; give at least one (were they written to another folder?)")
    seen: set[str] = set()
    for record in records:
        if record.spec.run_id in seen:
            raise RecordError(f"run {record.spec.file_name} is given twice; give each run once")
        seen.add(record.spec.run_id)


def _method_names(records: Sequence[RunRecord]) -> dict[str, str]:
    """Names of the methods by run, with the settings in which runs on the same network differ."""
    groups: defaultdict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[*_network(record), record.spec.method].append(record)
    return {r.spec.run_id: _name(r, _varying(group)) for group in groups.values() for r in group}


def _varying(group: Sequence[RunRecord]) -> list[str]:
    keys = sorted({key for record in group for key in record.spec.settings})
    return [key for key in keys if len({to_json(r.spec.settings.get(key)) for r in group}) > 1]


def _name(record: RunRecord, varying: Sequence[str]) -> str:
    given = ", ".join(f"{key}={record.spec.settings.get(key)}" for key in varying)
    return f"{record.spec.method} ({given})" if given else record.spec.method
