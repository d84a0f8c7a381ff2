"""Scores of single weights reduced to units, and ranks of feature maps, against slow ones."""

import copy

import numpy as np
import pytest
import torch
from support.selecting import problem_for, select
from support.subjects import SUBJECTS, budget_for
from torch import Tensor, nn

from scionet import prune
from scionet.errors import CalibrationError
from scionet.methods.contract import SiteView
from scionet.methods.criteria.hrank import map_ranks, mean_ranks
from scionet.methods.registry import SCORES
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.sites import Sites
from scionet.typing import FloatArray

MLP, PAIRS = SUBJECTS["mlp"].network(), SUBJECTS["mlp"].pairs(2, 6)
SITES = discover(MLP, SUBJECTS["mlp"].example())
X, Y = torch.cat([x for x, _ in PAIRS]), torch.cat([y for _, y in PAIRS])


def scored(method: str, model: nn.Module, sites: Sites, batches: list) -> dict[str, FloatArray]:
    problem = problem_for(model, batches, sites, labels=SCORES[method].uses_labels)
    ready, rng = SCORES[method].ready(problem), np.random.default_rng(0)
    views = {name: SiteView(site, problem.network, problem.calibration) for name, site in sites.items()}
    return {name: ready.scores(view, rng) for name, view in views.items()}


def gradients(model: nn.Module, x: Tensor, y: Tensor, temperature: float = 1.0) -> list[Tensor]:
    """Gradients of the mean loss for the three weights."""
    weights = [model.get_parameter(f"{layer}.weight") for layer in (0, 2, 4)]
    return list(torch.autograd.grad(nn.functional.cross_entropy(model(x) / temperature, y), weights))


def test_synflow_of_an_mlp_is_the_product_of_what_comes_in_and_what_goes_out() -> None:
    first, second, third = (np.abs(MLP.get_parameter(f"{layer}.weight").detach().numpy()) for layer in (0, 2, 4))
    found = scored("synflow", MLP, SITES, [])
    np.testing.assert_allclose(found["0"], first.sum(1) * (third @ second).sum(0), rtol=1e-12)
    np.testing.assert_allclose(found["2"], (second @ first).sum(1) * third.sum(0), rtol=1e-12)


def test_sums_of_first_order_scores_are_those_of_autograd() -> None:
    found = {name: scored(name, MLP, SITES, PAIRS)["2"] for name in ("loss_preservation", "biased_loss", "obd")}
    weight = MLP.get_parameter("2.weight").detach()
    products = (weight * gradients(MLP, X, Y)[1]).abs()
    squares = sum(gradients(MLP, x[None], y[None])[1].square() for x, y in zip(X, Y, strict=True)) / len(X)
    np.testing.assert_allclose(found["loss_preservation"], products.sum(1), rtol=1e-9)
    np.testing.assert_allclose(found["biased_loss"], (weight.abs() * products).sum(1), rtol=1e-9)
    np.testing.assert_allclose(found["obd"], (0.5 * weight.square() * squares).sum(1), rtol=1e-9)


@pytest.mark.parametrize(("method", "temperature"), [("grasp", 200.0), ("gradient_preservation", 1.0)])
def test_shrinking_a_filter_changes_the_gradient_norm_as_scored(method, temperature) -> None:
    found = scored(method, MLP, SITES, PAIRS)["2"]
    for unit in (0, 5, 15):
        norms, step = [], 1e-5
        for sign in (1, -1):
            model = copy.deepcopy(MLP)
            with torch.no_grad():
                model.get_parameter("2.weight")[unit] *= 1 - sign * step
            norms.append(sum(float(g.square().sum()) for g in gradients(model, X, Y, temperature)))
        change = (norms[0] - norms[1]) / (2 * step)
        expected = -2 * found[unit] if method == "grasp" else 2 * found[unit]
        assert (change if method == "grasp" else abs(change)) == pytest.approx(expected, rel=1e-4)


def test_a_stream_sums_over_its_producers() -> None:
    model = SUBJECTS["residual"].network()
    sites = discover(model, SUBJECTS["residual"].example())
    found = scored("loss_preservation", model, sites, SUBJECTS["residual"].pairs(1, 6))["stem"]
    ((x, y),) = SUBJECTS["residual"].pairs(1, 6)
    nn.functional.cross_entropy(model(x), y).backward()
    expected = 0.0
    for producer in sites["stem"].producers:
        weight = model.get_parameter(producer)
        assert weight.grad is not None
        expected = expected + (weight * weight.grad).abs().sum((1, 2, 3)).detach().numpy()
    assert len(sites["stem"].producers) == 3
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_ranks_of_maps_worked_out_by_hand() -> None:
    rng = torch.Generator().manual_seed(0)
    column, row = torch.randn(5, 1, generator=rng), torch.randn(1, 4, generator=rng)
    maps = torch.stack([torch.full((5, 4), 3.0), column @ row, torch.zeros(5, 4), torch.randn(5, 4, generator=rng)])
    assert map_ranks(maps).tolist() == [1, 1, 0, 4]


def test_mean_ranks_are_those_of_the_maps_one_by_one() -> None:
    model, batches = SUBJECTS["residual"].network(), SUBJECTS["residual"].batches(2, 3)
    sites = discover(model, SUBJECTS["residual"].example())
    assert isinstance(model.block1, nn.Module)
    with torch.no_grad():
        model.get_parameter("block1.bn1.bias").sub_(1.5)  # so that some maps are not of full rank
    seen: list[Tensor] = []
    hook = model.get_submodule("block1.conv2").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for batch in batches:
        model(batch)
    hook.remove()
    maps = torch.cat(seen).detach().numpy()
    expected = [np.mean([np.linalg.matrix_rank(picture[unit]) for picture in maps]) for unit in range(12)]
    assert len(set(expected)) > 1
    np.testing.assert_allclose(mean_ranks(Network(model, sites), batches)["block1.conv1"], expected)


def test_units_without_maps_are_ranked_by_l1() -> None:
    found = scored("hrank", MLP, SITES, SUBJECTS["mlp"].batches())
    expected = np.abs(MLP.get_parameter("2.weight").detach().numpy()).sum(1)
    np.testing.assert_allclose(found["2"], expected / expected.mean())


def test_synflow_needs_no_data() -> None:
    model = SUBJECTS["residual"].network()
    result = prune(model, (), "macs<=60%", example_inputs=SUBJECTS["residual"].example(), method="synflow")
    assert 0.5 < result.report.pruned.macs / result.report.dense.macs <= 0.6


@pytest.mark.parametrize(
    ("method", "batches", "text"),
    [
        ("hrank", [], "no calibration batches"),
        ("grasp", [], "no calibration batches"),
        ("obd", SUBJECTS["mlp"].batches(), "needs labels"),
    ],
)
def test_data_without_use_are_refused(method, batches, text) -> None:
    with pytest.raises(CalibrationError, match=text):
        select(method, MLP, batches, SITES, budget_for(SITES, 0.5), widths="uniform", repair=[])


def test_a_network_whose_flow_is_nothing_is_refused() -> None:
    model = SUBJECTS["mlp"].network()
    nn.init.zeros_(model.get_parameter("4.weight"))
    with pytest.raises(CalibrationError, match="0 throughout"):
        select("synflow", model, [], SITES, budget_for(SITES, 0.5), widths="uniform", repair=[])
