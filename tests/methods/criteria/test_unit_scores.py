"""The baselines against scores worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.selecting import select, view_of
from support.subjects import SUBJECTS, budget_for
from torch import nn

from scionet.methods.contract import SiteView
from scionet.methods.criteria import unit_scores
from scionet.network.discovery.discover import discover

Score = Callable[[SiteView, np.random.Generator], np.ndarray]


def scored(score: Score, name: str, site: str, model: nn.Module | None = None) -> np.ndarray:
    model = SUBJECTS[name].network() if model is None else model
    sites = discover(model, SUBJECTS[name].example())
    return score(view_of(model, sites, site), np.random.default_rng(3))


def norms(model: nn.Module, layer: str) -> np.ndarray:
    weight = model.get_parameter(f"{layer}.weight").detach().numpy()
    return np.array([np.abs(unit).sum() for unit in weight])


def test_l1_of_one_producer_is_the_norm_relative_to_the_mean() -> None:
    expected = norms(SUBJECTS["residual"].network(), "block1.conv1")
    np.testing.assert_allclose(scored(unit_scores.l1, "residual", "block1.conv1"), expected / expected.mean())


def test_l1_of_a_stream_counts_every_producer_relative_to_its_own_mean() -> None:
    model = SUBJECTS["residual"].network()
    with torch.no_grad():
        model.get_parameter("stem.weight").mul_(100)
    shares = [norms(model, layer) for layer in ("stem", "block1.conv2", "block2.conv2")]
    expected = np.mean([share / share.mean() for share in shares], axis=0)
    np.testing.assert_allclose(scored(unit_scores.l1, "residual", "stem", model), expected)


def test_l1_of_a_depthwise_site_counts_the_expansion_and_the_depthwise_kernel() -> None:
    model = SUBJECTS["branched"].network()
    sites = discover(model, SUBJECTS["branched"].example())
    shares = [norms(model, producer.removesuffix(".weight")) for producer in sites["expand"].producers]
    assert len(shares) >= 2
    expected = np.mean([share / share.mean() for share in shares], axis=0)
    np.testing.assert_allclose(scored(unit_scores.l1, "branched", "expand"), expected)


def test_bn_scale_is_the_mean_of_the_absolute_scales() -> None:
    model = SUBJECTS["residual"].network()
    with torch.no_grad():
        model.get_parameter("block1.bn2.weight")[3] = -7
    scales = [model.get_parameter(f"{norm}.weight").detach().numpy() for norm in ("norm", "block1.bn2", "block2.bn2")]
    found = scored(unit_scores.bn_scale, "residual", "stem", model)
    np.testing.assert_allclose(found, np.abs(scales).mean(axis=0))
    assert found.argmax() == 3


def test_bn_scale_without_batch_norm_is_l1() -> None:
    expected = norms(SUBJECTS["mlp"].network(), "2")
    np.testing.assert_allclose(scored(unit_scores.bn_scale, "mlp", "2"), expected / expected.mean())


@pytest.mark.parametrize("repair", [[], ["refit"]], ids=str)
@pytest.mark.parametrize("name", ["l1", "bn_scale"])
def test_the_highest_scores_stay_and_ties_go_to_the_lowest_index(name, repair) -> None:
    model = nn.Sequential(nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 1)).double().eval()
    with torch.no_grad():
        for tensor in (model.get_parameter("0.weight"), model.get_parameter("1.weight")):
            for unit, size in enumerate([2.0, 1, 3, 1, 2]):
                tensor[unit] = size
    sites = discover(model, torch.zeros(1, 2, 3, 3))
    batches = [torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(0))]
    plan = select(name, model, batches, sites, budget_for(sites, 0.8), widths="uniform", repair=repair)
    assert plan.choices[0].order == (2, 0, 4, 1)
    assert plan.kept == {"0": (0, 1, 2, 4)}


def test_random_keeps_every_unit_equally_often() -> None:
    model = SUBJECTS["mlp"].network()
    sites = discover(model, SUBJECTS["mlp"].example(), ["0"])
    counts = np.zeros(16)
    for seed in range(200):
        plan = select("random", model, [], sites, budget_for(sites, 0.5), seed, widths="uniform", repair=[])
        counts[list(plan.kept["2"])] += 1
    assert counts.sum() == 200 * 8
    assert np.abs(counts - 100).max() < 30  # more than four standard deviations


def test_l2_and_fpgm_are_norms_and_distances_relative_to_their_means() -> None:
    weight = SUBJECTS["residual"].network().get_parameter("block1.conv1.weight").detach().numpy()
    filters = weight.reshape(len(weight), -1)
    lengths = np.array([np.sqrt((f**2).sum()) for f in filters])
    distances = np.array([sum(np.sqrt(((f - other) ** 2).sum()) for other in filters) for f in filters])
    np.testing.assert_allclose(scored(unit_scores.l2, "residual", "block1.conv1"), lengths / lengths.mean())
    np.testing.assert_allclose(scored(unit_scores.fpgm, "residual", "block1.conv1"), distances / distances.mean())


def test_fpgm_lets_the_filter_in_the_middle_go_first() -> None:
    model = nn.Sequential(nn.Conv1d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv1d(3, 2, 1)).double()
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([1.0, 2.0, 3.0])[:, None, None])
    sites = discover(model, torch.zeros(2, 1, 4))
    found = unit_scores.fpgm(view_of(model, sites, "0"), np.random.default_rng(0))
    np.testing.assert_allclose(found, [9 / 8, 6 / 8, 9 / 8])
