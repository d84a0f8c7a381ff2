"""What widths do to the network's output, against the definition."""

import numpy as np
import pytest
import torch
from support.subjects import SUBJECTS, budget_for

from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import CalibrationError
from scionet.methods.pipeline import Pipeline
from scionet.methods.refit.refit import Fitting
from scionet.methods.refit.survey import survey
from scionet.methods.registry import build
from scionet.methods.widths.allocator import Allocator
from scionet.methods.widths.sensitivity import OutputDistance, effect_curve, measured_widths
from scionet.network.calling import joined
from scionet.network.discovery.discover import discover
from scionet.network.passes import variants
from scionet.network.passes.recording import recorded
from scionet.network.plan import Choice, Plan
from scionet.network.surgery.cut import cut
from scionet.progress import silent
from scionet.seeds import seeded

BRANCHED = SUBJECTS["branched"]


@pytest.mark.parametrize("count", [1, 2])
def test_effects_are_those_of_the_network_in_which_one_site_alone_is_cut(count):
    model = BRANCHED.network()
    sites, batches = discover(model, BRANCHED.example()), list(BRANCHED.batches(3, 24))
    method = build("forward", measured_examples=24, measured_widths=count, positions=10_000)
    allocator = allocator_of(method, model, batches, sites)
    apart, others, rest = map(list, allocator.parts)
    assert rest == []
    assert sum(map(len, apart)) == 24 and sum(map(len, others)) == 48
    given = torch.cat([*apart, *others]).unique(dim=0)
    assert torch.equal(given, torch.cat(batches).unique(dim=0))
    curves = allocator.effect_curves(OutputDistance.of(model, apart, "kl"), others, {})
    inputs = torch.cat(apart)
    dense = model.eval()(inputs).detach().log_softmax(1)
    errors = allocator_of(build("forward", positions=10_000), model, others, sites).error_curves({})
    for name, site in sites.items():
        widths, effects = [site.width // 4, site.width // 2][-count:], []
        for width in widths:
            alone = build("forward", allocation="uniform", positions=10_000, asymmetric=False, shortcuts=False)
            plan = only_site(alone, model, others, sites, name, width)
            after = cut(model, plan, sites).eval()(inputs).detach().log_softmax(1)
            effects.append(float((dense.exp() * (dense - after)).sum(1).mean()))
        excess = errors[name] - errors[name][-1]
        factor = np.interp(range(site.width + 1), widths, effects / excess[widths])
        np.testing.assert_allclose(curves[name], factor * excess, rtol=1e-6, atol=1e-12)


def allocator_of(method: Pipeline, model, batches, sites) -> Allocator:
    return Allocator(
        method.ranker, Fitting(model, sites, method.settings), batches, CostModel(sites), seeded(0), silent
    )


def only_site(method: Pipeline, model, batches, sites, name: str, width: int) -> Plan:
    """A plan that cuts one site and refits its consumers on inputs of the dense network."""
    fitting, tensors = Fitting(model, sites, method.settings), {}
    ((view, moments),) = survey(fitting, batches, [name], seeded(0), silent)
    found = method.ranker.rank(view, width, seeded(0)("rank", name))
    for consumer in view.site.consumers:
        tensors.update(fitting.refit(consumer, moments[consumer], {name: fitting.gate(view.site, found)}).tensors)
    choice = Choice(name, view.site.width, found.kept, (1.0,) * width, found.order, found.values, "")
    return Plan((choice,), tensors, "forward", {}, 0, sites.dense_hash, "")


def test_kl_and_squared_by_definition():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False)).double()
    x, other = torch.randn(7, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    before, after = model(x).detach(), x @ other.T
    kl = OutputDistance.of(model, [x[:5], x[5:]], "kl").effect({"0.weight": other})
    share = before.softmax(1)
    assert kl == pytest.approx(float((share * (share / after.softmax(1)).log()).sum() / 7))
    squared = OutputDistance.of(model, [x[:5], x[5:]], "squared").effect({"0.weight": other})
    assert squared == pytest.approx(float((before - after).square().sum() / before.square().sum()))
    assert OutputDistance.of(model, [x], "kl").effect({}) == 0.0


def test_effects_do_not_depend_on_batches_and_a_call_of_one_form_is_recorded_once(monkeypatch):
    model, x = BRANCHED.network(), torch.cat(list(BRANCHED.batches(1, 24)))
    name, weight = next((name, tensor) for name, tensor in model.state_dict().items() if tensor.ndim > 1)
    changes = [{name: weight * factor} for factor in (0.5, 1.0, 2.0)]
    records = []

    def counted(*given):
        records.append(given)
        return recorded(*given)

    monkeypatch.setattr(variants, "recorded", counted)
    whole = OutputDistance.of(model, [x], "kl").effects(changes)
    assert len(records) == 1
    parts = OutputDistance.of(model, [x[:3], x[3:10], x[10:11], x[11:]], "kl").effects(changes)
    assert len(records) == 2
    np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-15)


def test_batches_are_joined_by_form_and_in_order():
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
    assert len(found) == 4 and found[3][1] is tokens
    assert found[0]["x"][:, 0].tolist() == [1, 1, 0, 2] and found[0]["pad"] is True


def test_kl_of_pixels_is_their_mean():
    model = torch.nn.Conv2d(2, 3, 1).double()
    x, other = torch.randn(4, 2, 5, 5, dtype=torch.float64), torch.randn(3, 2, 1, 1, dtype=torch.float64)
    before = model(x).detach().log_softmax(1)
    after = torch.nn.functional.conv2d(x, other, model.bias).detach().log_softmax(1)
    expected = (before.exp() * (before - after)).sum(1).mean()
    assert OutputDistance.of(model, [x], "kl").effect({"weight": other}) == pytest.approx(float(expected))


def test_outputs_that_are_not_finite_are_refused():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        OutputDistance.of(model, [torch.ones(1, 2)], "kl").effect({"weight": torch.full((2, 2), torch.nan)})


def test_effect_is_in_proportion_to_the_error_and_as_large_as_measured():
    errors = np.array([np.inf, 0.5, 0.25, 0.1, 0.05, 0.0])
    np.testing.assert_allclose(effect_curve(errors, [2], [1.5]), [np.inf, 3.0, 1.5, 0.6, 0.3, 0.0])
    np.testing.assert_allclose(effect_curve(errors[1:] + 7, [1], [1.5]), [3.0, 1.5, 0.6, 0.3, 0.0])
    by_rounding = effect_curve(errors, [2], [-1e-9])
    assert by_rounding[0] == np.inf and 0 < by_rounding[1] < 1e-9 and np.all(np.diff(by_rounding) < 0)


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
def test_half_of_a_site_is_measured_or_as_much_of_it_as_does_not_do_everything(errors, width):
    assert measured_widths(np.array(errors), 1) == (width,)


def test_further_widths_are_halves_of_halves():
    falling = np.linspace(1, 0, 33)
    assert [measured_widths(falling, count) for count in (2, 3, 9)] == [(8, 16), (4, 8, 16), (1, 2, 4, 8, 16)]


def test_between_measured_widths_the_factor_changes_evenly():
    errors = np.array([2.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    found = effect_curve(errors, [1, 3], [3.0, 0.6])
    np.testing.assert_allclose(found, errors * [3, 3, 2, 1, 1, 1, 1])
    useless = effect_curve(np.array([1.0, 0.5, 0.0, 0.0, 0.0]), [1, 2], [4.0, 9.0])
    np.testing.assert_allclose(useless, [8.0, 4.0, 0.0, 0.0, 0.0])


def test_few_examples_are_used_for_both():
    model = BRANCHED.network()
    sites, batches = discover(model, BRANCHED.example()), list(BRANCHED.batches())
    method = build("forward", allocation="measured", measured_examples=10_000)
    apart, others, _ = allocator_of(method, model, batches, sites).parts
    for part in (apart, others):
        assert torch.equal(torch.cat([*part]), torch.cat(batches))
    plan = method.select(model, batches, sites, Budget.of(budget_for(sites, 0.6)), 0)
    after = cut(model, plan, sites).eval()
    with torch.no_grad():
        before, now = (torch.cat([net(x).log_softmax(1) for x in batches]) for net in (model.eval(), after))
    measured = float((before.exp() * (before - now)).sum(1).mean())
    assert f"measured {measured:.3g} nats of divergence" in plan.status and "predicted" in plan.status
