"""Growth of time and memory with the width of a site and with the number of calibration images.

    python -m benchmarks.run.timing.growth

Times are processor time of one thread, because the machine is shared with other work.

Widths: a site of N units has one 1x1 consumer of N outputs, with synthetic moments. Least squares takes the path from
zero to all units; average and line search take it to half of them. An objective stops at the width that is expected to
take longer than `limit_seconds`.

Images: one survey collects the moments of every consumer of ResNet-20 with random weights, on random images of 32x32
pixels. Images and activations beyond half a GiB each are on disk. Each number of images has a process of its own.

The record is benchmarks/results/growth/growth.json; `python -m benchmarks.report.tables` plots it.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch
import tyro
from torch import nn

from benchmarks import RESULTS
from benchmarks.run.timing.measuring import RandomBatches, peak_mb, problem, processor_seconds
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import write_text
from scionet.choices.methods import Forward
from scionet.choices.repair import Refit
from scionet.choices.resources import Resources
from scionet.choices.settings import Settings
from scionet.methods.greedy.forward import ForwardRanker
from scionet.methods.refit.survey import survey, surveying
from scionet.models.factory import build
from scionet.selection.greedy import greedy
from scionet.selection.objective import Objective
from scionet.selection.quadratic import AverageObjective, LeastSquaresObjective, LineSearchObjective
from scionet.selection.terms import Term

RECORD = RESULTS / "growth" / "growth.json"
WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
IMAGES = (512, 2048, 8192, 20096, 50048)
PATHS: Mapping[str, tuple[type[Objective[Any]], int]] = {
    "least squares": (LeastSquaresObjective, 1),
    "average": (AverageObjective, 2),
    "line search": (LineSearchObjective, 2),
}
"""Objectives, and the length of their path: all units (1) or half of them (2)."""


def main(limit_seconds: float = 600.0) -> None:
    """Measure and write the record.

    Args:
        limit_seconds: The longest expected time of a path.
    """
    torch.set_num_threads(1)
    record = {"widths": widths(limit_seconds), "images": [images(count) for count in IMAGES]}
    today = datetime.now(UTC).date().isoformat()
    provenance = Provenance.here(today, "python -m benchmarks.run.timing.growth", 1)
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    notes = ["the machine was shared with other work"]
    write_text(RECORD, json.dumps({"provenance": vars(provenance), "notes": notes, **record}, indent=1) + "\n")


def widths(limit_seconds: float) -> dict[str, list[tuple[int, float]]]:
    """Processor seconds from the moments to the end of the path, by objective and width."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in PATHS}
    for size in WIDTHS:
        term = problem(size)
        for name, (objective, share) in PATHS.items():
            before = found[name][-1][1] if found[name] else 0.0
            if len(found[name]) < WIDTHS.index(size) or 8 * before > limit_seconds:
                continue  # doubling the width multiplies the time by eight
            seconds = path_seconds(objective, term, size // share)
            found[name].append((size, round(seconds, 4)))
            print(f"N = {size}, {name}: {seconds:.3g} s", flush=True)
    return found


def path_seconds(objective: type[Objective[Any]], term: Term, picks: int) -> float:
    """Processor time of one path."""
    return processor_seconds(lambda: greedy(objective([term]), picks))  # pyright: ignore[reportCallIssue]  from terms


def images(count: int) -> dict[str, float]:
    """Time and memory of a survey of `count` images, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.run.timing.growth", "--survey-of", str(count)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(found, flush=True)
    return found


def survey_of(count: int) -> None:
    """Print the seconds of a forward pass and of a survey, and the survey's additional peak memory, as JSON."""
    torch.set_num_threads(1)
    model, data = build("scionet:resnet20").eval(), RandomBatches(count)

    def forward() -> None:
        with torch.no_grad():
            for batch in data:
                model(batch)

    passed, before = processor_seconds(forward), peak_mb()
    seconds = processor_seconds(lambda: _survey(model, data))
    print(json.dumps({"images": count, "forward s": passed, "survey s": seconds, "MB": peak_mb() - before}))


def _survey(model: nn.Module, data: RandomBatches) -> None:
    settings = Settings(repair=(Refit(),), resources=Resources(memory_gib=0.5))
    run = surveying(model, data, torch.zeros(2, 3, 32, 32), ForwardRanker(Forward(), settings), settings, 0)
    for _ in survey(run, run.calibration, run.sites):
        pass


if __name__ == "__main__":
    if sys.argv[1:2] == ["--survey-of"]:
        survey_of(int(sys.argv[2]))
    else:
        tyro.cli(main)
