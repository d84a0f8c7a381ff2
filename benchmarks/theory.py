"""The curves of one site after another: greedy, stochastic and distributed selection beside random and the bound.

    python benchmarks/theory.py --data FOLDER

Least squares at the sites of ResNet-20 on 1,024 CIFAR-10 images, without shrinkage. For each number of kept units: the
relative error at the consumer with the units of exact greedy selection, of stochastic (epsilon 0.1) and distributed
greedy selection (4 shares) and of random ones (mean of five seeds each), and the least error that *any* as large set is
certified to have. The record is benchmarks/results/theory/resnet20.json; `python benchmarks/tables.py` draws it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from untrained import TASKS, split

from scionet.bench.provenance import Provenance
from scionet.methods.contract import SiteView
from scionet.methods.fitting import Fitting
from scionet.methods.survey import survey
from scionet.models import build, load_weights
from scionet.network.discover import discover
from scionet.progress import silent
from scionet.seeds import seeded
from scionet.selection.distributed import distributed
from scionet.selection.greedy import greedy, replay
from scionet.selection.guarantees import best_possible
from scionet.selection.policies import Stochastic
from scionet.selection.quadratic import LeastSquares
from scionet.settings import ForwardSettings

RESULT = Path(__file__).parent / "results" / "theory" / "resnet20.json"
SITES = ("layer1.1.conv1", "layer2.1.conv1", "layer3.1.conv1")
SEEDS = range(5)


def main(data: Path) -> None:
    """Measure and record.

    Args:
        data: Folder of the archives and weights; see untrained.py.
    """
    task = TASKS["resnet20"]
    model = build(f"scionet:{task.network}").eval()
    assert task.weights is not None
    load_weights(model, data / task.weights)
    batches = [images for images, _ in split(task, data / task.archive, 0)[0]]
    sites = discover(model, torch.zeros(2, 3, task.side, task.side))
    fitting = Fitting(model, sites, ForwardSettings(shrinkage=0.0))
    views = survey(fitting, batches, SITES, seeded(0), silent)
    rows = {view.site.name: curves(view) for view, _ in views}
    provenance = Provenance.here("", "python benchmarks/theory.py", torch.get_num_threads())
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"network": task.network, "curves": rows, "versions": dict(provenance.versions)}, indent=1)
    RESULT.write_text(text + "\n")


def curves(view: SiteView) -> dict[str, Any]:
    """Errors by number of kept units, 1 to N."""
    size = view.site.width
    objective = LeastSquares(view.terms)
    gamma = objective.spectral_ratio()
    path = greedy(objective, size)
    some = [
        [greedy(objective, k, policy=Stochastic(0.1), rng=np.random.default_rng([s, k])).values[-1] for s in SEEDS]
        for k in range(1, size + 1)
    ]
    two = [
        [distributed(objective, k, n_partitions=4, seed=s, backend="sequential").selection.values[-1] for s in SEEDS]
        for k in range(1, size + 1)
    ]
    orders = [np.random.default_rng([7, s]).permutation(size).tolist() for s in SEEDS]
    random = np.mean([replay(objective, order).values for order in orders], axis=0)
    return {
        "gamma": gamma,
        "greedy": _errors(path.values),
        "stochastic": _errors(np.mean(some, axis=1)),
        "distributed": _errors(np.mean(two, axis=1)),
        "random": _errors(random),
        "least possible": _errors([best_possible(objective, path.order[:k], gamma) for k in range(1, size + 1)]),
    }


def _errors(values: Any) -> list[float]:
    return [float(f"{-value:.5g}") for value in values]


if __name__ == "__main__":
    tyro.cli(main)
