"""Error curves of single sites: greedy, stochastic, distributed and random selection, and bounds on the error.

    python -m benchmarks.run.theory --data FOLDER

Least squares at three sites of ResNet-20 on 1,024 CIFAR-10 images, without shrinkage. For each number of kept units,
the record has the relative error at the consumer for these choices of units:

- exact greedy selection;
- stochastic (epsilon 0.1) and distributed (4 partitions) greedy selection and random units, each the mean of five
  seeds;
- a lower bound on the error of any set of the same size;
- at the site with 16 units: the best set, found by trying all 65,536, and the error that greedy selection is guaranteed
  not to exceed.

The record is benchmarks/results/theory/resnet20.json; `python -m benchmarks.report.tables` plots it.
"""

import json
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks import RESULTS
from benchmarks.run.untrained import TASKS, calibration, dense
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import write_text
from scionet.choices.methods import Forward
from scionet.choices.repair import Refit
from scionet.choices.settings import Settings
from scionet.methods.contract import SiteView
from scionet.methods.greedy.forward import ForwardRanker
from scionet.methods.refit.survey import survey, surveying
from scionet.selection.distributed import distributed
from scionet.selection.greedy import greedy, replay
from scionet.selection.guarantees import best_possible, greedy_factor
from scionet.selection.policies import StochasticPolicy
from scionet.selection.quadratic import LeastSquaresObjective
from scionet.selection.regression import refit
from scionet.selection.terms import Term
from scionet.typing import FloatArray

RESULT = RESULTS / "theory" / "resnet20.json"
SITES = ("layer1.1.conv1", "layer2.1.conv1", "layer3.1.conv1")
SEEDS = range(5)
ENUMERATED = 16
"""Sites with at most this number of units are searched exhaustively."""


def main(data: Path) -> None:
    """Measure and write the record.

    Args:
        data: Folder of the archives and weights; see untrained.py.
    """
    task = TASKS["resnet20"]
    model = dense(task, data)
    batches = [images for images, _ in calibration(task, data / task.archive, 0)]
    settings = Settings(repair=(Refit(shrinkage=0.0),))
    example = torch.zeros(2, 3, task.side, task.side)
    run = surveying(model, batches, example, ForwardRanker(Forward(), settings), settings, 0)
    rows = {view.site.name: curves(view) for view, _ in survey(run, run.surveyed, SITES)}
    today = datetime.now(UTC).date().isoformat()
    provenance = Provenance.here(today, "python -m benchmarks.run.theory", torch.get_num_threads())
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    record = {"provenance": vars(provenance), "network": task.network, "curves": rows}
    write_text(RESULT, json.dumps(record, indent=1) + "\n")


def curves(view: SiteView) -> dict[str, Any]:
    """Errors for 1 to N kept units, by way of selection."""
    size = view.site.width
    objective = LeastSquaresObjective(view.terms)
    gamma = objective.spectral_ratio()
    path = greedy(objective, size)
    some = [
        [
            greedy(objective, k, policy=StochasticPolicy(0.1), rng=np.random.default_rng([s, k])).values[-1]
            for s in SEEDS
        ]
        for k in range(1, size + 1)
    ]
    two = [
        [distributed(objective, k, partitions=4, seed=s, backend="sequential").selection.values[-1] for s in SEEDS]
        for k in range(1, size + 1)
    ]
    orders = [np.random.default_rng([7, s]).permutation(size).tolist() for s in SEEDS]
    random = np.mean([replay(objective, order).values for order in orders], axis=0)
    found = {
        "greedy": path.values,
        "stochastic": np.mean(some, axis=1),
        "distributed": np.mean(two, axis=1),
        "random": random,
        "least possible": [best_possible(objective, path.order[:k], gamma) for k in range(1, size + 1)],
    }
    if size <= ENUMERATED:
        best = -least_errors(view.terms[0])
        found |= {"best": best, "guaranteed": -1 + greedy_factor(gamma) * (1 + best)}
    return {"gamma": gamma, **{name: _errors(values) for name, values in found.items()}}


def least_errors(term: Term) -> FloatArray:
    """The smallest error of any set of 1, ..., N units, by exhaustive search."""

    def error(units: tuple[int, ...]) -> float:
        columns = np.concatenate([term.columns[list(units)].ravel(), term.fixed])
        weight = refit(term.xx, term.xy, columns)
        return (term.yy - float(np.sum(weight * (2 * term.xy.T - weight @ term.xx)))) / term.scale

    return np.array([min(map(error, combinations(range(term.size), k))) for k in range(1, term.size + 1)])


def _errors(values: Any) -> list[float]:
    return [float(f"{-value:.5g}") for value in values]


if __name__ == "__main__":
    tyro.cli(main)
