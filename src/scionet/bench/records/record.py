"""The record of one run: its specification and its results. Reports are made from records alone."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scionet.bench.records.ledger import Payment
from scionet.bench.records.mask_record import MaskRecord
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import RecordError, make_folder, read_text, write_text
from scionet.budget.latency.durations import Latency
from scionet.files.json_dataclasses import build, plain, read, to_json

FORMAT = 1
"""Version of the record format; raised when an older reader could misread a file."""

Curve = tuple[tuple[int, float], ...]
"""Pairs (units kept, relative error)."""


@dataclass(frozen=True)
class RunSpec:
    """The specification of a run: everything that identifies it before it starts.

    Attributes:
        experiment: Name of the experiment the run belongs to.
        network: Name of the dense network.
        dataset: Name of the data that the network is evaluated on.
        method: Name of the method and, after " + ", of what is added to it, as in ``"l1 + refit"``.
        budget: The budget as text, such as ``"macs<=50%"``.
        seed: Seed of the run (calibration data and method).
        settings: Further settings, JSON-able.
    """

    experiment: str
    network: str
    dataset: str
    method: str
    budget: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def __post_init__(self) -> None:
        """Convert the settings to the form that they have after a round trip through JSON.

        Raises:
            RecordError: If a setting or another value has no JSON form.
        """
        try:
            stored = json.loads(to_json(self))
        except (TypeError, ValueError) as error:
            raise RecordError(
                f"the specification of a run must be JSON-able (finite numbers, Unicode texts, lists, dicts): {error}"
            ) from error
        object.__setattr__(self, "settings", MappingProxyType(stored["settings"]))

    @property
    def run_id(self) -> str:
        """SHA-256 of the specification, hexadecimal: equal for equal runs, whatever their results."""
        return hashlib.sha256(to_json(self).encode()).hexdigest()

    @property
    def short_id(self) -> str:
        """The beginning of `run_id`, unique among the runs of a folder."""
        return self.run_id[:12]

    @property
    def file_name(self) -> str:
        """Readable and unique name of the run's file."""
        words = (self.network, self.method, self.budget, f"seed{self.seed}")
        slug = "_".join(re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") for word in words)
        return f"{slug}_{self.short_id}.json"


@dataclass(frozen=True)
class Outcome:
    """The cost and the accuracy of a network.

    Attributes:
        macs: Multiply-accumulate operations per example.
        params: Number of parameters.
        correct: Examples classified correctly.
        seen: Examples evaluated.
        latency: Time of a forward pass, if it was measured.
    """

    macs: float
    params: int
    correct: int
    seen: int
    latency: Latency | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            RecordError: If nothing was seen, more was correct than seen, or a cost is not positive.
        """
        if not (0 <= self.correct <= self.seen and self.seen > 0 and self.macs > 0 and self.params > 0):
            raise RecordError(
                f"an outcome needs 0 <= correct <= seen, seen > 0 and positive costs; given correct={self.correct}, "
                f"seen={self.seen}, macs={self.macs}, params={self.params}"
            )

    @property
    def accuracy(self) -> float:
        """Fraction of examples classified correctly, 0 to 1."""
        return self.correct / self.seen


@dataclass(frozen=True)
class SiteRecord:
    """The result at one site.

    Attributes:
        name: Name of the site.
        width: Units in the dense network.
        kept: Units that remain after pruning.
        curve: The method's relative error by units kept, ascending in units; see `thin`.
    """

    name: str
    width: int
    kept: int
    curve: Curve = ()

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            RecordError: If not ``1 <= kept <= width``, or the curve's units are not ascending within ``1..width``.
        """
        units = [0, *(n for n, _ in self.curve), self.width + 1]
        if not 1 <= self.kept <= self.width or any(a >= b for a, b in pairwise(units)):
            raise RecordError(
                f"site {self.name!r} needs 1 <= kept <= width and a curve ascending in 1..width; given "
                f"kept={self.kept}, width={self.width}, curve units {units[1:-1][:8]}"
            )


@dataclass(frozen=True)
class Tried:
    """The result of one learning rate of a sweep.

    Attributes:
        learning_rate: The largest learning rate of the schedule.
        epochs: Length of the training.
        correct: Validation examples classified correctly after the training.
        seen: Validation examples.
    """

    learning_rate: float
    epochs: float
    correct: int
    seen: int


@dataclass(frozen=True)
class RunRecord:
    """One run: its specification, the networks before and after, and how the result came about.

    Attributes:
        spec: Specification of the run.
        dense: The network before pruning.
        pruned: The network after pruning.
        seconds: Time of the selection, including the refit.
        sites: Widths and error curves, in order of execution.
        provenance: Software, machine, date, command.
        max_relative_difference: Largest relative difference between the masked and the cut network, if it was verified.
        dense_hash: Hash of the dense network's state.
        plan_hash: Identity of the plan.
        summary: One line about what the method does.
        notes: Other facts that a reader should know.
        ledger: The cost of the result, stage by stage.
        sweep: Learning rates that were tried; the one with the best validation accuracy was evaluated.
        answers: Which test examples the pruned network classified correctly; see `encode_answers`.
        masks: Which single weights the network keeps, if any are held at zero.
        trace: What a method that shrinks a network noted after each epoch.
    """

    spec: RunSpec
    dense: Outcome
    pruned: Outcome
    seconds: float
    sites: tuple[SiteRecord, ...]
    provenance: Provenance
    max_relative_difference: float | None = None
    dense_hash: str = ""
    plan_hash: str = ""
    summary: str = ""
    notes: tuple[str, ...] = ()
    ledger: tuple[Payment, ...] = ()
    sweep: tuple[Tried, ...] = ()
    answers: str = ""
    masks: MaskRecord | None = None
    trace: tuple[dict[str, Any], ...] = ()

    @property
    def file_name(self) -> str:
        """Name of the run's own file; equal for two records of the same run."""
        return self.spec.file_name

    def timed(self, dense: Latency | None, pruned: Latency | None) -> "RunRecord":
        """Return the record with times of a forward pass of both networks."""
        return replace(self, dense=replace(self.dense, latency=dense), pruned=replace(self.pruned, latency=pruned))

    def to_json(self) -> str:
        """The record as canonical JSON.

        Raises:
            RecordError: If a field is not of its annotated type, or a number is NaN or infinite.
        """
        try:
            return to_json({"format": FORMAT, **plain(build(type(self), plain(self)))})
        except ValueError as error:
            raise RecordError(f"run {self.spec.short_id} cannot be recorded: {error}") from error

    @classmethod
    def from_json(cls, text: str, source: str = "text") -> "RunRecord":
        """The inverse of `to_json`; `source` names the file in error texts.

        Raises:
            RecordError: If the text is damaged, is no record, or has a newer format.
        """
        try:
            content = read(dict, text)
            if (given := build(int, content.pop("format", None), "record.format")) <= FORMAT:
                return build(cls, content)
        except ValueError as error:
            raise RecordError(f"{source} is damaged or no run record: {error}. Run it again or remove it") from error
        raise RecordError(
            f"{source} has record format {given}; this scionet reads formats up to {FORMAT}. Upgrade scionet"
        )


def thin(curve: Sequence[tuple[int, float]], points: int = 64) -> Curve:
    """At most `points` evenly spaced pairs of a curve, with both ends; errors are rounded to six significant digits."""
    picks = np.unique(np.linspace(0, len(curve) - 1, min(points, len(curve))).round().astype(int))
    return tuple((int(curve[i][0]), float(f"{curve[i][1]:.6g}")) for i in picks)


def encode_answers(right: NDArray[np.bool_]) -> str:
    """Encode which examples were classified correctly: eight examples per byte, in base 64."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def decode_answers(answers: str, count: int) -> NDArray[np.bool_]:
    """Decode what `encode_answers` returns.

    Raises:
        RecordError: If the text does not hold `count` answers.
    """
    try:
        found = np.unpackbits(np.frombuffer(base64.b64decode(answers, validate=True), np.uint8))
    except ValueError as error:
        raise RecordError(f"answers are damaged: {error}; run it again") from error
    if not count <= len(found) < count + 8:
        raise RecordError(f"the record must hold answers to {count} examples; it holds {len(found)}; run it again")
    return found[:count].astype(bool)


def save(record: RunRecord, folder: Path) -> Path:
    """Write a record into a folder, which is made if it does not exist; an earlier record of the run is replaced.

    Raises:
        RecordError: If it cannot be written; nothing is left behind then.
    """
    text = record.to_json() + "\n"
    path = folder / record.file_name
    make_folder(folder)
    write_text(path, text)
    return path


def load(path: Path) -> RunRecord:
    """Read one record.

    Raises:
        RecordError: If the file cannot be read, is damaged, is no record, or has a newer format; the text names it.
    """
    return RunRecord.from_json(read_text(path), str(path))
