"""The comparison that a library of greedy selection must not fail: one hidden layer of a small trained MLP.

Bounds are those that hold for six networks of the recipe (data, initialisation and training seeds differ).
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scionet
from scionet.choices.limits import Limits
from scionet.choices.methods import Forward
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites

WIDTH = 256


@dataclass(frozen=True, eq=False)
class Toy:
    """A trained 20-256-64-10 network, its data, and what accuracy a choice of hidden units has."""

    model: nn.Module
    sites: Sites
    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]

    def accuracy(self, plan: Plan) -> float:
        return accuracy(scionet.cut(self.model, plan, self.sites), *self.valid)

    def weighted(self, units: tuple[int, ...]) -> float:
        """Accuracy with some units, each with the weight N / n."""
        weights = (WIDTH / len(units),) * len(units)
        return self.accuracy(Plan((Choice("0", WIDTH, tuple(sorted(units)), weights),)))

    def prune(self, n_units: int, points: int, **choices) -> scionet.PruneResult:
        x, y = self.train
        batches = [(x[i : i + 512], y[i : i + 512]) for i in range(0, points, 512)]
        kept_macs = n_units * (20 + 64) + 640
        fixed = {"example_inputs": x[:2], "limits": Limits(ignored_layers=["2"]), "widths": "uniform"}
        return scionet.prune(self.model, batches, f"macs<={kept_macs}", **fixed, **choices)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


@pytest.fixture(scope="module")
def toy() -> Toy:
    """Thirty clouds, ten classes, 1,500 steps of Adam."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.set_num_threads(1)
        torch.manual_seed(0)
        centres, of = 1.2 * torch.randn(30, 20), torch.randint(0, 30, (8192,))
        x, y = centres[of] + 0.9 * torch.randn(8192, 20), of % 10
        model = nn.Sequential(nn.Linear(20, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 10))
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(1500):
            chosen = torch.randint(0, 4096, (128,))
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimiser.step()
    torch.set_num_threads(threads)
    return Toy(model, scionet.discover(model, x[:2], ["2"]), (x[:4096], y[:4096]), (x[4096:], y[4096:]))


def test_dense_network_is_well_trained(toy) -> None:
    assert accuracy(toy.model, *toy.valid) > 0.96


@pytest.mark.slow
def test_exact_loss_beats_local_average_beats_random(toy) -> None:
    rng = np.random.default_rng(0)
    random = {n: np.mean([toy.weighted(tuple(rng.permutation(WIDTH)[:n])) for _ in range(5)]) for n in (32, 64)}
    local = toy.prune(64, 2048, method=Forward("average"), repair=[])
    exact = toy.prune(64, 512, method=Forward("task_loss"), repair=[]).plan.choices[0]
    assert toy.accuracy(local.plan) > random[64]
    assert toy.weighted(exact.order) > toy.accuracy(local.plan)
    assert toy.weighted(exact.order[:32]) > random[32] + 0.15


@pytest.mark.parametrize(("n_units", "bound"), [(32, 0.80), (64, 0.92), (128, 0.95)])
@pytest.mark.parametrize(
    "method",
    ["random", Forward("average"), Forward("least_squares")],
    ids=["random", "local greedy", "greedy least squares"],
)
def test_any_support_is_good_with_least_squares(toy, method, n_units, bound) -> None:
    result = toy.prune(n_units, 2048, method=method)
    assert result.plan.widths == {"0": n_units}
    assert accuracy(result.model, *toy.valid) > bound
