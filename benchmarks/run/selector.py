"""A channel selector that learns from greedy selection on ResNet-56 and is used on ResNet-20.

    python -m benchmarks.run.selector --data FOLDER

The seed sets the calibration images, the initial weights of the selector, and random units. For each seed:

1. The selector learns from greedy least squares at every site of ResNet-56.
2. At every site of ResNet-20, the selector and the other rankers choose half of the units. Their choices are compared
   with that of greedy least squares.
3. ResNet-20 is pruned to half its MACs at one density, with the same refit for all.

FOLDER is that of untrained.py. Run records go to benchmarks/results/selector/runs.jsonl, overlaps and times to
overlaps.json beside it. `python -m benchmarks.report.tables` writes the tables.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import process_time
from typing import Any

import torch
import tyro
from torch import Tensor, nn

import benchmarks
from benchmarks.records import pack_folder, recorded_runs
from benchmarks.run.untrained import TASKS, calibration, dense, split
from scionet.bench.experiment.competitors import Competitor
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import RunRecord, save
from scionet.bench.records.record_files import write_text
from scionet.bench.runs.competitor_runs import Comparison, outcome
from scionet.budget.costs import measure
from scionet.choices.methods import Forward
from scionet.choices.repair import Refit
from scionet.choices.settings import Settings
from scionet.differentiable.channel_selector import ChannelSelector
from scionet.methods.contract import Ranker
from scionet.methods.criteria.learned import STATISTICS, LearnedRanker, lessons, statistics
from scionet.methods.greedy.forward import ForwardRanker
from scionet.methods.refit.survey import survey, surveying
from scionet.methods.registry import SCORES

RESULTS = benchmarks.RESULTS / "selector"
RUNS, OVERLAPS = RESULTS / "runs", RESULTS / "overlaps.json"
COMMAND = "python -m benchmarks.run.selector"
TEACHER, PUPIL, BUDGET = "resnet56", "resnet20", "macs<=50%"
EXAMPLE = torch.zeros(2, 3, 32, 32)
REFITTED = Settings(repair=(Refit(),))


def main(data: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Train the selectors, compare their choices, prune, and write the records.

    Args:
        data: Folder of the archives and weights.
        seeds: Calibration seeds.
    """
    rows = []
    for seed in seeds:
        selector, seconds = trained(data, seed)
        images, test = split(TASKS[PUPIL], data / TASKS[PUPIL].archive, seed)
        model = dense(TASKS[PUPIL], data)
        given = rankers(selector)
        rows += [{"seed": seed, "teaching s": seconds, **row} for row in overlaps(model, images, given, seed)]
        _write(rows)
        _prune(model, images, test, given, seed)
    pack_folder(RunRecord, RUNS)


def trained(data: Path, seed: int) -> tuple[ChannelSelector, float]:
    """Train a selector; return it and the seconds of the training."""
    images = [x for x, _ in calibration(TASKS[TEACHER], data / TASKS[TEACHER].archive, seed)]
    given = [*lessons(dense(TASKS[TEACHER], data), images, EXAMPLE, seed=seed)]
    selector, start = ChannelSelector(STATISTICS, seed=seed), process_time()
    losses = selector.fit([lesson.statistics for lesson in given], [lesson.order for lesson in given])
    print(f"seed {seed}: {len(given)} sites, loss {losses[0]:.3f} to {losses[-1]:.3f}", flush=True)
    return selector, process_time() - start


def rankers(selector: ChannelSelector) -> Mapping[str, Ranker]:
    """The competing rankers; all use the same refit."""
    return {
        "greedy least squares": ForwardRanker(Forward(), REFITTED),
        "learned": LearnedRanker(selector),
        **{name: SCORES[name] for name in ("energy", "l1", "bn_scale", "random")},
    }


def overlaps(
    model: nn.Module, calibration: Sequence[Any], given: Mapping[str, Ranker], seed: int
) -> Iterator[dict[str, Any]]:
    """Per site: the share of greedy selection's units that each ranker also chooses, and the seconds of the choice."""
    run = surveying(model, calibration, EXAMPLE, given["greedy least squares"], REFITTED, seed)
    rngs = run.generators
    for view, _ in survey(run, run.surveyed, run.sites):
        half = view.site.width // 2
        start = process_time()
        greedy = set(given["greedy least squares"].rank(view, half, rngs("rank", view.site.name)).kept)
        seconds = {"greedy least squares": process_time() - start}
        learned = given["learned"]
        assert isinstance(learned, LearnedRanker)
        start = process_time()
        learned.selector.rank(statistics(view))
        seconds["learned"] = process_time() - start
        shares = {
            name: len(greedy.intersection(ranker.rank(view, half, rngs("rank", name, view.site.name)).kept)) / half
            for name, ranker in given.items()
        }
        yield {"site": view.site.name, "width": view.site.width, "shares": shares, "choice s": seconds}


def _prune(
    model: nn.Module,
    calibration: Sequence[Any],
    test: Sequence[tuple[Tensor, Tensor]],
    given: Mapping[str, Ranker],
    seed: int,
) -> None:
    """Prune the network with each ranker that has no record with this seed, and save the record."""
    task, dense = TASKS[PUPIL], outcome(model, measure(model, EXAMPLE), test, bf16=True)[0]
    comparison = Comparison("selector", task.network, task.dataset, model, EXAMPLE, test, dense, COMMAND, bf16=True)
    done = {record.spec.method for record in recorded_runs(RUNS) if record.spec.seed == seed}
    for name, ranker in given.items():
        if name in done:
            continue
        competitor = Competitor(name, ranker, "uniform", ("refit",), "Refitted, one density for all sites.")
        record = comparison.run(competitor, calibration, BUDGET, seed).record
        save(record, RUNS)
        print(f"{name}, seed {seed}: {record.pruned.accuracy:.4f}", flush=True)


def _write(rows: list[dict[str, Any]]) -> None:
    provenance = Provenance.here(datetime.now(UTC).date().isoformat(), COMMAND, torch.get_num_threads())
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_text(OVERLAPS, json.dumps({"provenance": vars(provenance), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
