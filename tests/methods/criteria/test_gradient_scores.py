"""Scores from contributions and from gradients, against finite differences and sums worked out one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from support.naive import FloatArray, after, gated
from support.selecting import ALL_PIXELS, select
from support.subjects import SUBJECTS, budget_for
from torch import Tensor, nn

from scionet.choices.resources import Resources
from scionet.choices.settings import Settings
from scionet.errors import CalibrationError, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.methods.criteria import gradient_scores, unit_scores
from scionet.methods.criteria.gradient_scores import Saliency, saliencies
from scionet.methods.method_run import MethodRun
from scionet.methods.refit.survey import survey, surveying
from scionet.methods.registry import SCORES
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.sites import Sites

Pairs = list[tuple[Tensor, Tensor]]
BARE: dict[str, Any] = {"widths": "uniform", "repair": []}


def ragged(name: str) -> Pairs:
    """Two batches of different sizes."""
    ((x, y),) = SUBJECTS[name].pairs(1, 12)
    return [(x[:8], y[:8]), (x[8:], y[8:])]


def gated_model(model: nn.Module, sites: Sites, site: str, unit: int, gate: float) -> nn.Module:
    """A copy in which one unit gives `gate` times as much to each consumer."""
    tensors = {}
    for consumer in sites[site].consumers:
        factors = np.ones(sites.shapes[consumer][1])
        factors[sites[site].slot(consumer, 1).index[unit]] = gate
        tensors[consumer] = gated(model.state_dict()[consumer], factors)
    return after(model, tensors)


def slopes(model: nn.Module, sites: Sites, site: str, unit: int, pairs: Pairs) -> FloatArray:
    """Central difference of each batch's loss."""
    up, down = (gated_model(model, sites, site, unit, 1 + step) for step in (1e-5, -1e-5))
    with torch.no_grad():
        return np.array(
            [(nn.functional.cross_entropy(up(x), y) - nn.functional.cross_entropy(down(x), y)) / 2e-5 for x, y in pairs]
        )


@pytest.mark.parametrize("name", ["residual", "branched", "mlp", "heads"])
def test_saliencies_are_finite_differences_of_the_loss(name) -> None:
    model, pairs = SUBJECTS[name].network(), ragged(name)
    sites = discover(model, SUBJECTS[name].example())
    network, kinds = Network(model, sites), (gradient_scores.taylor, gradient_scores.snip)
    squared, signed = (saliencies(kind, network, pairs) for kind in kinds)
    for site in sites:
        for unit in (0, sites[site].width - 1):
            found = slopes(model, sites, site, unit, pairs)
            np.testing.assert_allclose(squared[site][unit], (found**2).mean(), rtol=1e-4, atol=1e-12)
            np.testing.assert_allclose(signed[site][unit], abs(found @ [8, 4]) / 12, rtol=1e-4, atol=1e-9)


def test_a_gate_behind_a_batch_norm_is_its_scale_and_shift() -> None:
    """The identity dL/dz = gamma dL/dgamma + beta dL/dbeta holds where a ReLU is all there is in between."""
    model, ((x, y), *_) = SUBJECTS["residual"].network(), ragged("residual")
    sites = discover(model, SUBJECTS["residual"].example())
    nn.functional.cross_entropy(model(x), y).backward()
    gamma, beta = (model.get_parameter(f"block1.bn1.{name}") for name in ("weight", "bias"))
    assert gamma.grad is not None
    assert beta.grad is not None
    expected = (gamma * gamma.grad + beta * beta.grad).detach().numpy() ** 2
    found = saliencies(gradient_scores.taylor, Network(model, sites), [(x, y)])["block1.conv1"]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-18)


def test_snip_does_not_depend_on_how_examples_are_batched_and_taylor_does() -> None:
    model, parts = SUBJECTS["mlp"].network(), ragged("mlp")
    sites = discover(model, SUBJECTS["mlp"].example())
    whole = [(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))]

    def both(kind: Saliency) -> list[FloatArray]:
        network = Network(model, sites)
        return [saliencies(kind, network, pairs)["0" if "0" in sites else "2"] for pairs in (parts, whole)]

    np.testing.assert_allclose(*both(gradient_scores.snip), rtol=1e-10)
    split, joined = both(gradient_scores.taylor)
    assert not np.allclose(split, joined, rtol=1e-3)
    np.testing.assert_allclose(joined, both(gradient_scores.snip)[1] ** 2, rtol=1e-10)


def dense_run(model: nn.Module, batches: list[Tensor], **given: Any) -> MethodRun:
    """What surveys the dense network."""
    return surveying(model, batches, batches[0], SCORES["energy"], Settings(**given), 0)


def test_energy_is_the_mean_square_of_what_a_unit_gives() -> None:
    model, batches = SUBJECTS["mlp"].network(), SUBJECTS["mlp"].batches(2, 6)
    assert isinstance(model, nn.Sequential)
    found, run = {}, dense_run(model, batches)
    for view, _ in survey(run, run.calibration, run.sites):
        found[view.site.name] = unit_scores.energy(view, np.random.default_rng(0))
    for name, layer in (("0", 2), ("2", 4)):
        with torch.no_grad():
            x, weight = model[:layer](torch.cat(batches)), model.get_parameter(f"{layer}.weight")
            whole = (x @ weight.T).square().sum()
            expected = [float((x[:, [u]] @ weight[:, [u]].T).square().sum() / whole) for u in range(len(weight.T))]
        np.testing.assert_allclose(found[name], expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["residual", "branched"])
def test_energy_is_measured_behind_the_batch_norm_and_added_over_consumers(name) -> None:
    model, batches = SUBJECTS[name].network(), SUBJECTS[name].batches(1, 6)
    run = dense_run(model, batches, resources=ALL_PIXELS)
    seen: dict[str, Any] = {}
    for consumer in run.sites.consumers.values():
        model.get_submodule(consumer.module).register_forward_pre_hook(
            lambda module, args, key=consumer.weight: seen.update({key: (module, args[0])})
        )
    with torch.no_grad():
        model(batches[0])
    inputs = dict(seen)
    for view, _ in survey(run, run.calibration, run.sites):
        found = unit_scores.energy(view, np.random.default_rng(0))
        for unit in (0, view.site.width - 1):
            expected = 0.0
            for key in view.site.consumers:
                index = view.site.slot(key, 1).index[unit]
                expected += share(*inputs[key], index, run.fitting.scales[key])
            assert found[unit] == pytest.approx(expected, rel=1e-9)


def share(module: nn.Module, x: Tensor, index: Any, scale: FloatArray | None) -> float:
    """Mean square of what some input channels give, relative to that of the whole without its bias."""
    only = torch.zeros_like(x)
    only[:, index] = x[:, index]
    with torch.no_grad():
        parts = [(module(given) - module(torch.zeros_like(x))).flatten(2 if x.ndim > 2 else 1) for given in (only, x)]
    factor = torch.ones(parts[0].shape[1]) if scale is None else torch.from_numpy(scale)
    part, whole = (p.mul(factor.view(1, -1, *[1] * (p.ndim - 2))).square().sum() for p in parts)
    return float(part / whole)


@pytest.mark.parametrize("method", ["taylor", "snip"])
def test_a_frozen_network_gets_the_same_plan(method) -> None:
    sites = discover(SUBJECTS["mlp"].network(), SUBJECTS["mlp"].example())
    plans = []
    for frozen in (False, True):
        model = SUBJECTS["mlp"].network().requires_grad_(not frozen)
        before = hash_tensors(state_of(model))
        with torch.no_grad():
            plans.append(select(method, model, SUBJECTS["mlp"].pairs(), sites, budget_for(sites, 0.5), **BARE))
        assert hash_tensors(state_of(model)) == before
        assert all(parameter.grad is None for parameter in model.parameters())
    assert plans[0].choices == plans[1].choices


@pytest.mark.parametrize("widths", ["uniform", "sensitivity", "error_curves"])
def test_labels_decide_whatever_widths_are_decided_by(widths) -> None:
    model, pairs = SUBJECTS["residual"].network(), SUBJECTS["residual"].pairs()
    sites = discover(model, SUBJECTS["residual"].example())
    found = saliencies(gradient_scores.taylor, Network(model, sites), pairs)
    resources, budget = Resources(batch_size=24), budget_for(sites, 0.6)
    plan = select("taylor", model, pairs, sites, budget, widths=widths, resources=resources, hold_out=False)
    for choice in plan.choices:
        assert choice.order == tuple(np.argsort(-found[choice.site], kind="stable")[: len(choice.kept)])


@pytest.mark.parametrize("method", ["taylor", "snip"])
@pytest.mark.parametrize(
    ("case", "text"),
    [("no labels", "needs labels"), ("nothing", "no calibration batches"), ("dead", "gradient is 0"), ("nan", "NaN")],
)
def test_data_without_use_are_refused(method, case, text) -> None:
    model, pairs = SUBJECTS["mlp"].network(), SUBJECTS["mlp"].pairs()
    sites = discover(model, SUBJECTS["mlp"].example())
    if case == "dead":
        for layer in ("2", "4"):
            nn.init.zeros_(model.get_parameter(f"{layer}.weight"))
    if case == "nan":
        pairs[1][0][0, 0] = torch.nan
    given = {"no labels": SUBJECTS["mlp"].batches(), "nothing": []}.get(case, pairs)
    with pytest.raises(CalibrationError, match=text):
        select(method, model, given, sites, budget_for(sites, 0.5), **BARE)


class Detached(nn.Sequential):
    """Runs without gradients, as networks for deployment do."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_a_network_that_runs_without_gradients_is_refused() -> None:
    model = Detached(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    sites = discover(model, SUBJECTS["mlp"].example())
    with pytest.raises(UnsupportedModel, match="no_grad"):
        select("taylor", model, SUBJECTS["mlp"].pairs(), sites, budget_for(sites, 0.5), **BARE)
