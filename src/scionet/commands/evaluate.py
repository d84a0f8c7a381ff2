"""scionet evaluate: accuracy, cost and latency of a network."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from scionet.budget.costs import Cost, measure
from scionet.budget.latency.durations import Latency
from scionet.budget.latency.timing import latency
from scionet.commands import networks, pictures
from scionet.commands.options import Evaluate
from scionet.commands.output_files import check_writable
from scionet.commands.pictures import Indices, PictureRecord, record_of
from scionet.commands.scoring import count, first, percent, score
from scionet.commands.show import line, table, warn
from scionet.data.batches import ImageBatches, batches
from scionet.data.folders import ImageFolder
from scionet.data.sampling import sampled
from scionet.errors import InvalidSetting
from scionet.files.atomic import whole_file
from scionet.training.accuracy import Accuracy


@dataclass(frozen=True)
class Findings:
    """The results of an evaluation.

    Attributes:
        accuracy: The number of correctly classified pictures.
        cost: MACs and parameters.
        latency: Time of a forward pass, if it was measured.
    """

    accuracy: Accuracy
    cost: Cost
    latency: Latency | None


def run(command: Evaluate) -> None:
    """Measure, print the results, and write the file that was asked for.

    Raises:
        PruneError: If something is wrong with what was given.
    """
    if command.json is not None:
        check_writable(command.json, command.overwrite, (".json",))
    test = _test_pictures(command)
    model = _network(command)
    findings = Findings(
        score(model, test, "evaluate", command.quiet, command.bf16),
        measure(model, first(test)),
        _latency(model, test) if command.latency else None,
    )
    _report(command, findings)
    if command.json is not None:
        record = _record(command, findings)
        with whole_file(command.json, ".json", overwrite=command.overwrite, error=InvalidSetting) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        line(f"written to {command.json}")


def _network(command: Evaluate) -> nn.Module:
    """Load the network to measure.

    Raises:
        InvalidSetting: If the flags name none, or contradict one another.
    """
    kwargs = networks.keywords(command.model_args)
    if command.pruned is not None:
        if command.weights is not None:
            raise InvalidSetting("a pruned file has its own weights; leave out --weights, or give --model instead")
        return networks.pruned(command.pruned, command.model, kwargs, command.trust_factory)
    if command.model is None:
        raise InvalidSetting("which network? Give --pruned FILE, or --model FACTORY with --weights FILE")
    return networks.dense(command.model, kwargs, command.weights)


def _test_pictures(command: Evaluate) -> ImageBatches:
    """Sample the pictures to evaluate on. Warns if some of them were used to calibrate or train the pruned network.

    Raises:
        InvalidSetting: If the data, the preparation or the number of pictures do not fit.
    """
    options = command.pictures
    record = record_of(command.pruned) if command.pruned is not None else None
    prepared = pictures.preprocessing(options, record.preprocessing if record else None)
    folder = ImageFolder(options.data, options.split)
    taken = np.empty(0, dtype=np.int64) if command.exclude_calibration_of is None else _excluded(command, folder)
    indices = sampled(
        pictures.remaining(folder, taken),
        command.images,
        np.random.default_rng(command.seed),
        "pictures to evaluate on",
    )
    if record is not None:
        _warn_of_overlap(record, folder, indices, str(command.pruned))
    return batches(folder, prepared, options.batch_size, indices, labels=True)


def _excluded(command: Evaluate, folder: ImageFolder) -> Indices:
    """Return the pictures that the network of another file was calibrated or trained on.

    Raises:
        InvalidSetting: If the file does not record them, or the folder holds other pictures.
    """
    path = command.exclude_calibration_of
    record = record_of(path) if path is not None else None
    if record is None:
        raise InvalidSetting(f"{path} does not record its calibration pictures; give a file of `scionet prune`")
    return record.seen(folder)


def _warn_of_overlap(record: PictureRecord, folder: ImageFolder, indices: Indices, path: str) -> None:
    if record.fits(folder) and (shared := len(np.intersect1d(record.seen(folder), indices))):
        warn(
            f"{shared} of these {len(indices)} pictures were seen in calibration or training; leave them out with "
            f"--exclude-calibration-of {path}"
        )


def _latency(model: nn.Module, test: ImageBatches) -> Latency:
    return latency({"": model}, first(test)[:1], threads=torch.get_num_threads())[""]


def _report(command: Evaluate, findings: Findings) -> None:
    accuracy, cost, timed = findings.accuracy, findings.cost, findings.latency
    rows = [
        ("top-1 accuracy", f"{percent(accuracy.rate)} ({accuracy.correct:,} of {accuracy.seen:,})"),
        ("MACs", count(cost.macs)),
        ("parameters", count(cost.params)),
    ]
    if timed is not None:
        rows.append(("one picture", str(timed)))
    split = f", {command.pictures.split}" if command.pictures.split else ""
    table(f"{command.pruned or command.model} on {command.pictures.data}{split}", ("",), rows)


def _record(command: Evaluate, findings: Findings) -> dict[str, Any]:
    """The results as JSON."""
    return {
        "network": str(command.pruned or command.model),
        "data": str(command.pictures.data),
        "split": command.pictures.split,
        "seed": command.seed,
        "bf16": command.bf16,
        "accuracy": findings.accuracy.rate,
        **asdict(findings.accuracy),
        **asdict(findings.cost),
        "latency": None if findings.latency is None else asdict(findings.latency),
    }
