"""The rounds of benchmarks/run/early/early_pruning.py: exact counts, floors, and the norm of the gradient."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.run.early import early_filters
from scionet.network.discovery.discover import discover
from scionet.network.surgery.cut import cut

X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 4
PAIRS = [(X[:16], Y[:16]), (X[16:], Y[16:])]


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    convs = (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 40, 3), nn.BatchNorm2d(40), nn.ReLU())
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 4)).eval()


def test_numbers_of_filters_fall_by_the_telescoping_schedule_and_end_at_the_density() -> None:
    """Against the fractions r_i of the current filters that the paper's schedule takes away."""
    share, slow = 1.0, []
    for i in range(1, 6):
        share *= 1 - 0.75 / (i * 0.75 + 5 * 0.25)
        slow.append(round(share * 224))
    assert early_filters.counts(0.25, 5, 224) == slow
    assert slow[-1] == 56


@pytest.mark.parametrize("n_kept", [3, 9, 30, 45])
def test_the_highest_stay_in_exact_numbers_and_a_twentieth_of_each_site(n_kept) -> None:
    scores = {"a": torch.linspace(-2, -1, 5), "b": torch.randn(40, generator=torch.Generator().manual_seed(1))}
    least = early_filters.floors({"a": 5, "b": 40})
    assert least == {"a": 1, "b": 2}
    kept = early_filters.chosen(scores, n_kept, least, "").kept
    order = sorted(((float(s), name, i) for name, score in scores.items() for i, s in enumerate(score)), reverse=True)
    safe = [unit for name in scores for unit in [u for u in order if u[1] == name][: least[name]]]
    expected = safe + [unit for unit in order if unit not in safe][: n_kept - len(safe)]
    assert kept == {name: tuple(sorted(i for _, n, i in expected if n == name)) for name in scores}


@pytest.mark.parametrize("method", ["magnitude", "GraSP, T = 1", "random"])
def test_every_measure_scores_all_filters_of_the_network(network, method) -> None:
    sites = discover(network, X[:2])
    scores = early_filters.unit_scores(early_filters.METHODS[method], network, sites, PAIRS, np.random.default_rng(0))
    assert {name: len(score) for name, score in scores.items()} == {"0": 5, "3": 40}
    if method == "magnitude":
        torch.testing.assert_close(scores["3"].float(), network[3].weight.detach().flatten(1).norm(dim=1))
    plan = early_filters.chosen(scores, 20, early_filters.floors({"0": 5, "3": 40}), sites.dense_hash)
    assert sum(site.width for site in discover(cut(network, plan, sites), X[:2]).values()) == 20


def test_norms_of_the_gradient_are_those_of_a_backward_pass(network) -> None:
    evaluated, trained = early_filters.gradient_norms(network, PAIRS)
    for norm, mode in ((evaluated, False), (trained, True)):
        copy = nn.Sequential(*network).train(mode)
        losses = [nn.functional.cross_entropy(copy(x), y, reduction="sum") for x, y in PAIRS]
        weights = [module.weight for module in copy if isinstance(module, nn.Conv2d | nn.Linear)]
        slopes = torch.autograd.grad(torch.stack(losses).sum() / 24, weights)
        assert norm == pytest.approx(float(torch.cat([s.flatten() for s in slopes]).norm()), rel=1e-4)
