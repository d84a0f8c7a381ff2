"""Time and memory of `prune`, as ratios within one run, which do not depend on the speed of the machine.

    python -m benchmarks.run.timing.speed --data FOLDER

FOLDER is that of untrained.py. Writes benchmarks/results/speed/speed.json, and the profiles of whole prunes beside it.
"""

import cProfile
import io
import json
import pstats
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks import RESULTS
from benchmarks.run.timing import exact_loss
from benchmarks.run.timing.measuring import RandomBatches, peak_mb, problem, processor_seconds, seconds
from benchmarks.run.untrained import TASKS, calibration, dense
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import write_text
from scionet.choices.resources import Resources
from scionet.choices.widths import Sensitivity
from scionet.masks.scores import SCORES, WeightView
from scionet.masks.weights import maskable, upcast
from scionet.models.factory import build
from scionet.pruning import prune
from scionet.selection.greedy import greedy
from scionet.selection.quadratic import AverageObjective, LeastSquaresObjective
from scionet.selection.terms import Term

OUT = RESULTS / "speed"
RECORD = OUT / "speed.json"
UNITS = 256


def main(data: Path, threads: int = 2, repeats: int = 2, only: tuple[str, ...] = ()) -> None:
    """Measure and write the record.

    Args:
        data: Folder of archives and weights.
        threads: Threads to use.
        repeats: Number of timed prunes.
        only: Which of resnet56, efficientnet_lite0, selection, path, loss, synflow, import, memory to measure
            again; all if empty.
    """
    torch.set_num_threads(threads)
    parts = {
        "resnet56": lambda: _whole_prune("resnet56", "macs<=50%", data, repeats),
        "efficientnet_lite0": lambda: _whole_prune("efficientnet_lite0", "macs<=60%", data, repeats),
        "selection": _selection,
        "path": _path,
        "loss": lambda: [_row(name, ratio, "×", meaning) for name, ratio, meaning in exact_loss.ratios(data)],
        "synflow": _synflow,
        "import": lambda: [_import_time()],
        "memory": _memory,
    }
    if unknown := set(only) - parts.keys():
        raise SystemExit(f"unknown {sorted(unknown)}; allowed: {', '.join(parts)}")
    rows = {row["name"]: row for row in (json.loads(RECORD.read_text())["rows"] if only else ())}
    for name in only or parts:
        for row in parts[name]():
            rows[row["name"]] = row
            print(f"{row['name']}: {row['value']:.3g} {row['unit']}", flush=True)
        _write([*rows.values()], threads)


def _write(rows: list[dict[str, Any]], threads: int) -> None:
    """Write the record of all measurements so far."""
    provenance = Provenance.here(datetime.now(UTC).date().isoformat(), "python -m benchmarks.run.timing.speed", threads)
    OUT.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps({"provenance": vars(provenance), "rows": rows}, indent=1) + "\n")


def _row(name: str, value: float, unit: str, meaning: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "meaning": meaning}


def _whole_prune(network: str, budget: str, data: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """The ratio of a whole prune to a plain forward pass, from medians of alternating runs."""
    task = TASKS[network]
    model = dense(task, data)
    fast = [batch for batch, _ in calibration(task, data / task.archive, 0)]
    images = [batch.contiguous() for batch in fast]

    def forward(given: list[Any]) -> None:
        with torch.no_grad():
            for batch in given:
                model(batch)

    def whole() -> None:
        widths = Sensitivity(examples=task.measured)
        prune(model, fast, budget, example_inputs=images[0][:2], widths=widths, progress=False)

    timed: dict[str, list[float]] = {"plain": [], "fast": [], "prune": []}
    for _ in range(repeats):
        timed["plain"].append(seconds(lambda: forward(images)))
        timed["fast"].append(seconds(lambda: forward(fast)))
        timed["prune"].append(seconds(whole))
    plain, quick, taken = (float(np.median(timed[name])) for name in ("plain", "fast", "prune"))
    meaning = f"whole prune of {network} to {budget}, {task.images:,} images, over one forward pass"
    yield _row(f"{network}: prune / forward", taken / plain, "×", meaning)
    yield _row(f"{network}: prune / channels_last forward", taken / quick, "×", meaning + " in channels_last")
    yield _row(f"{network}: prune", taken, "s", "the same in seconds on this machine")
    _write_profile(whole, OUT / f"{network}.txt")


def _write_profile(action: Callable[[], object], path: Path) -> None:
    """Write a profile of an action as text."""
    profile = cProfile.Profile()
    profile.runcall(action)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats("scionet|torch", 25)
    lines = [line.replace(str(Path.cwd()), "").rstrip() for line in text.getvalue().splitlines()]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(_without_folders(line) for line in lines) + "\n")


def _without_folders(line: str) -> str:
    head, separator, tail = line.rpartition("  ")
    return head + separator + tail.rpartition("site-packages/")[2].rpartition("src/")[2]


def _selection() -> Iterator[dict[str, Any]]:
    """Greedy picks from moments against one forward pass of the consumer for every candidate and step."""
    rng = np.random.default_rng(0)
    inputs = np.maximum(rng.normal(size=(2000, UNITS)) @ rng.normal(size=(UNITS, UNITS)) / 16, 0)
    weight = rng.normal(size=(UNITS, UNITS))
    outputs = inputs @ weight.T
    count = len(inputs)
    columns = np.arange(UNITS)[:, None]
    term = Term(
        inputs.T @ inputs / count,
        inputs.T @ outputs / count,
        float((outputs**2).sum() / count),
        columns,
        np.zeros(0, dtype=int),
        weight,
    )
    picks = UNITS // 2
    fast = seconds(lambda: greedy(AverageObjective([term]), picks))
    refit = seconds(lambda: greedy(LeastSquaresObjective([term]), picks))
    steps = 2

    def averaged(chosen: list[int]) -> np.ndarray:
        return inputs[:, chosen] @ (UNITS / len(chosen) * weight[:, chosen].T)

    def refitted(chosen: list[int]) -> np.ndarray:
        return inputs[:, chosen] @ np.linalg.lstsq(inputs[:, chosen], outputs)[0]

    for name, quick, given in (("average", fast, averaged), ("least squares", refit, refitted)):
        slow = seconds(lambda given=given: _brute_force(given, outputs, steps)) / steps * picks
        meaning = (
            f"N = {UNITS}, {picks} picks: one forward pass of the consumer per candidate and pick, over the moments' "
            f"way (brute force timed for the first {steps} picks)"
        )
        yield _row(f"brute force / {name}", slow / quick, "×", meaning)


def _path() -> Iterator[dict[str, Any]]:
    """The whole path of one wide site whose consumer has 3 x 3 positions."""
    units, places = 512, 9
    term = problem(units, places)
    taken = seconds(lambda: greedy(LeastSquaresObjective([term]), units))
    meaning = f"least squares from moments, N = {units}, {units} outputs, 3 x 3 positions, from nothing to all units"
    yield _row("path of one site", taken, "s", meaning)


def _synflow() -> Iterator[dict[str, Any]]:
    """Compare one round of scoring with a forward and backward pass in single precision, both of one image."""
    model, example = build("torchvision:resnet50").eval(), torch.ones(1, 3, 224, 224)
    weights = upcast(maskable(model))
    whole = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    view = WeightView(model, weights, whole, [], example, 1.0, np.random.default_rng(0))

    def both_ways() -> None:
        model.zero_grad()
        model(example).sum().backward()

    actions = {"score": lambda: SCORES["synflow"].compute(view), "pass": both_ways}
    for action in actions.values():
        action()
    times = [[processor_seconds(action) for action in actions.values()] for _ in range(9)]
    ratio = float(np.median([score / both for score, both in times]))
    meaning = "ResNet-50, one round of scoring over one forward and backward pass of one picture, one thread"
    yield _row("synflow / forward-backward", ratio, "×", meaning)


def _brute_force(forward: Callable[[list[int]], np.ndarray], outputs: np.ndarray, steps: int) -> list[int]:
    picked: list[int] = []
    for _ in range(steps):
        units = [unit for unit in range(UNITS) if unit not in picked]
        errors = [float(((forward([*picked, unit]) - outputs) ** 2).sum()) for unit in units]
        picked.append(units[int(np.argmin(errors))])
    return picked


def _memory() -> Iterator[dict[str, Any]]:
    """Peak memory of a prune beyond the dense forward pass, for two numbers of images, each in its own process."""
    peaks = {}
    for images in (256, 1280):
        command = [sys.executable, "-m", "benchmarks.run.timing.speed", "--peak-of", str(images)]
        peaks[images] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    few, many = peaks.values()
    meaning = "peak resident memory of a prune beyond a forward pass, ResNet-56, random images, memory_gib=0.1"
    yield _row("memory, 256 images", few, "MB", meaning)
    yield _row("memory, 1,280 images", many, "MB", meaning)


def peak(images: int) -> None:
    """Print the peak memory in MB of a prune beyond that of a forward pass; needs a process of its own."""
    torch.set_num_threads(1)
    model = build("scionet:resnet56").eval()
    data = RandomBatches(images)
    with torch.no_grad():
        for batch in data:
            model(batch)
    before = peak_mb()
    example, resources = torch.zeros(2, 3, 32, 32), Resources(memory_gib=0.1)
    prune(model, data, "macs<=50%", example_inputs=example, resources=resources, progress=False)
    print(peak_mb() - before)


def _import_time() -> dict[str, Any]:
    """Seconds that `import scionet` takes beyond `import torch`."""

    def run(code: str) -> float:
        return float(
            np.median([seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True)) for _ in range(5)])
        )

    beyond = run("import torch, scionet") - run("import torch")
    return _row("import scionet", beyond, "s", "beyond import torch, median of five processes")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak-of"]:
        peak(int(sys.argv[2]))
    else:
        tyro.cli(main)
