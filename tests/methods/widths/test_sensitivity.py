"""Sensitivity of the network's output to the widths, against the definition."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.selecting import ALL_PIXELS, method_with, select
from support.subjects import SUBJECTS, budget_for

from scionet.choices.outputs import MetricName, Outputs
from scionet.choices.repair import Refit
from scionet.choices.widths import ErrorCurves, Sensitivity
from scionet.errors import CalibrationError
from scionet.methods.method_run import MethodRun
from scionet.methods.pipeline import Pipeline
from scionet.methods.refit.survey import survey, surveying
from scionet.methods.widths.damage_curves import measured_curves
from scionet.methods.widths.output_distance import OutputDistance
from scionet.methods.widths.sensitivity import measured_widths, sensitivity_curve
from scionet.network.calling import joined
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.passes import variants
from scionet.network.passes.recording import recorded
from scionet.network.plan import Choice, Plan
from scionet.network.surgery.cut import cut
from scionet.typing import FloatArray

BRANCHED = SUBJECTS["branched"]


@pytest.mark.parametrize("count", [1, 2])
def test_sensitivities_are_those_of_the_network_in_which_one_site_alone_is_cut(count) -> None:
    model, batches = BRANCHED.network(), BRANCHED.batches(3, 24)
    run = run_of(model, batches, Sensitivity(examples=24, widths_per_site=count))
    held_out = run.problem.held_out
    assert held_out is not None
    measured, others = torch.cat(held_out.inputs), torch.cat(run.surveyed.inputs)
    assert (len(measured), len(others)) == (9, 63)
    given = torch.cat([measured, others]).unique(dim=0)
    assert torch.equal(given, torch.cat(batches).unique(dim=0))
    curves = damage_of(run)
    dense = model.eval()(measured).detach().log_softmax(1)
    errors = damage_of(run_of(model, [others], ErrorCurves()))
    for name, site in run.sites.items():
        widths, distances = [site.width // 4, site.width // 2][-count:], []
        for width in widths:
            plan = only_site(run_of(model, [others]), name, width)
            after = cut(model, plan, run.sites).eval()(measured).detach().log_softmax(1)
            distances.append(float((dense.exp() * (dense - after)).sum(1).mean()))
        excess = errors[name] - errors[name][-1]
        factor = np.interp(range(site.width + 1), widths, distances / excess[widths])
        np.testing.assert_allclose(curves[name], factor * excess, rtol=1e-6, atol=1e-12)


def run_of(model, batches, widths="uniform", resources=ALL_PIXELS, repair=None) -> MethodRun:
    """Greedy least squares at work, on every output pixel."""
    method = method_with("forward", widths=widths, resources=resources, repair=repair or [Refit()])
    assert isinstance(method, Pipeline)
    run = surveying(model, batches, BRANCHED.example(), method.ranker, method.settings, 0)
    return replace(run, problem=method.prepared(run.problem, 0)) if isinstance(widths, Sensitivity) else run


def damage_of(run: MethodRun) -> Mapping[str, FloatArray]:
    """The damage at each width of each site."""
    curves = measured_curves(run)
    assert curves is not None
    return curves.damage


def only_site(run: MethodRun, name: str, width: int) -> Plan:
    """A plan that cuts one site and refits its consumers on inputs of the dense network."""
    tensors = {}
    ((view, moments),) = survey(run, run.calibration, [name])
    found = run.ranker.rank(view, width, run.generators("rank", name))
    for consumer in view.site.consumers:
        gates = {name: run.fitting.gate(view.site, found)}
        tensors.update(run.fitting.fitted(consumer, moments[consumer], gates).tensors)
    choice = Choice(name, view.site.width, found.kept, (1.0,) * width, found.order, found.values, "")
    return Plan((choice,), tensors, "forward", {}, 0, run.sites.dense_hash, "")


def distance_on(model, inputs, metric: MetricName = "kl") -> OutputDistance:
    """The distance of a network without sites."""
    return OutputDistance.on(Network(model), inputs, Outputs(metric))


def test_kl_and_squared_by_definition() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False)).double()
    x, other = torch.randn(7, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    before, after = model(x).detach(), x @ other.T
    kl = distance_on(model, [x[:5], x[5:]]).of({"0.weight": other})
    share = before.softmax(1)
    assert kl == pytest.approx(float((share * (share / after.softmax(1)).log()).sum() / 7))
    squared = distance_on(model, [x[:5], x[5:]], "squared").of({"0.weight": other})
    assert squared == pytest.approx(float((before - after).square().sum() / (before - before.mean(0)).square().sum()))
    assert distance_on(model, [x]).of({}) == 0.0


def test_distances_do_not_depend_on_batches_and_a_call_of_one_form_is_recorded_once(monkeypatch) -> None:
    model, x = BRANCHED.network(), torch.cat(list(BRANCHED.batches(1, 24)))
    name, weight = next((name, tensor) for name, tensor in model.state_dict().items() if tensor.ndim > 1)
    changes = [{name: weight * factor} for factor in (0.5, 1.0, 2.0)]
    records = []

    def counted(*given: Any) -> Any:
        records.append(given)
        return recorded(*given)

    monkeypatch.setattr(variants, "recorded", counted)
    whole = distance_on(model, [x]).of_each(changes)
    assert len(records) == 1
    parts = distance_on(model, [x[:3], x[3:10], x[10:11], x[11:]]).of_each(changes)
    assert len(records) == 2
    np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-15)


def test_batches_are_joined_by_form_and_in_order() -> None:
    tokens = torch.arange(4)
    batches = [
        {"x": torch.ones(2, 3), "pad": True},
        {"x": torch.zeros(1, 3), "pad": True},
        {"x": torch.ones(1, 4), "pad": True},
        {"x": torch.ones(1, 3), "pad": False},
        (torch.ones(2, 3), tokens),  # not divided: the second tensor has other examples
        {"x": torch.full((1, 3), 2.0), "pad": True},
    ]
    found = joined(batches)
    assert [len(batch["x"]) for batch in found[:3]] == [4, 1, 1]
    assert len(found) == 4
    assert found[3][1] is tokens
    assert found[0]["x"][:, 0].tolist() == [1, 1, 0, 2]
    assert found[0]["pad"] is True


def test_kl_of_pixels_is_their_mean() -> None:
    model = torch.nn.Conv2d(2, 3, 1).double()
    x, other = torch.randn(4, 2, 5, 5, dtype=torch.float64), torch.randn(3, 2, 1, 1, dtype=torch.float64)
    before = model(x).detach().log_softmax(1)
    after = torch.nn.functional.conv2d(x, other, model.bias).detach().log_softmax(1)
    expected = (before.exp() * (before - after)).sum(1).mean()
    assert distance_on(model, [x]).of({"weight": other}) == pytest.approx(float(expected))


def test_outputs_that_are_not_finite_are_refused() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        distance_on(model, [torch.ones(1, 2)]).of({"weight": torch.full((2, 2), torch.nan)})


def test_sensitivity_is_in_proportion_to_the_error_and_as_large_as_measured() -> None:
    errors = np.array([np.inf, 0.5, 0.25, 0.1, 0.05, 0.0])
    np.testing.assert_allclose(sensitivity_curve(errors, [2], [1.5]), [np.inf, 3.0, 1.5, 0.6, 0.3, 0.0])
    np.testing.assert_allclose(sensitivity_curve(errors[1:] + 7, [1], [1.5]), [3.0, 1.5, 0.6, 0.3, 0.0])
    by_rounding = sensitivity_curve(errors, [2], [-1e-9])
    assert by_rounding[0] == np.inf
    assert 0 < by_rounding[1] < 1e-9
    assert np.all(np.diff(by_rounding) < 0)


@pytest.mark.parametrize(
    ("errors", "width"),
    [
        ([1.0, 0.5, 0.25, 0.1, 0.0], 2),
        ([1.0, 0.5, 0.25, 0.0], 1),
        ([np.inf, 0.5, 1e-9, 0.0, 0.0], 1),
        ([1.0, 0.0, 0.0, 0.0, 0.0], 1),
        ([0.5, 0.0], 1),
    ],
)
def test_half_of_a_site_is_measured_or_as_much_of_it_as_does_not_do_everything(errors, width) -> None:
    assert measured_widths(np.array(errors), 1) == (width,)


def test_further_widths_are_halves_of_halves() -> None:
    falling = np.linspace(1, 0, 33)
    assert [measured_widths(falling, count) for count in (2, 3, 9)] == [(8, 16), (4, 8, 16), (1, 2, 4, 8, 16)]


def test_between_measured_widths_the_factor_changes_evenly() -> None:
    errors = np.array([2.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    found = sensitivity_curve(errors, [1, 3], [3.0, 0.6])
    np.testing.assert_allclose(found, errors * [3, 3, 2, 1, 1, 1, 1])
    useless = sensitivity_curve(np.array([1.0, 0.5, 0.0, 0.0, 0.0]), [1, 2], [4.0, 9.0])
    np.testing.assert_allclose(useless, [8.0, 4.0, 0.0, 0.0, 0.0])


def test_the_report_is_of_held_out_examples_and_says_so_where_there_are_none() -> None:
    model, sites = BRANCHED.network(), discover(BRANCHED.network(), BRANCHED.example())
    for batches, n_held_out in ((BRANCHED.batches(3, 24), 9), (BRANCHED.batches(1, 7), 0)):
        run = run_of(model, batches, Sensitivity())
        part = run.surveyed if run.problem.held_out is None else run.problem.held_out
        plan = select("forward", model, batches, sites, budget_for(sites, 0.6), widths=Sensitivity())
        after = cut(model, plan, sites).eval()
        with torch.no_grad():
            before, now = (torch.cat([net(x).log_softmax(1) for x in part.inputs]) for net in (model.eval(), after))
        distance = float((before.exp() * (before - now)).sum(1).mean())
        assert f"measured {distance:.3g} nats of divergence (the output by divergence over dimension 1)" in plan.status
        assert (f"on {n_held_out} held-out examples: predicted" in plan.status) == bool(n_held_out)
        assert ("too few to hold any out" in plan.status) == (not n_held_out)
