"""Properties of plans: permutations, prefixes, batches, memory."""

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scionet.methods.calibration.subsets import subsets
from support.naive import after
from support.subjects import SUBJECTS, budget_for
from torch import Tensor, nn

from scionet.budget.allocation.allocate import uniform
from scionet.budget.allocation.reach import TOLERANCE
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.methods.registry import build
from scionet.network.discovery.discover import discover
from scionet.network.passes.moments import Moments
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.seeds import seeded

ALL_PIXELS = 10_000
AS_GIVEN = (Phase.explicit, Phase.generate)
"""Without shrinking: a seed does not become simpler by being smaller."""

METHODS = [
    ("forward", {}),
    ("forward", {"objective": "line_search"}),
    ("forward", {"objective": "average", "refit": False}),
    ("l1", {"refit": True}),
    ("bn_scale", {}),
]


def select(
    name: str, method: str, density: float, batches: list[Tensor], model: nn.Module | None = None, **options
) -> Plan:
    model = SUBJECTS[name].network() if model is None else model
    sites = discover(model, SUBJECTS[name].example())
    chosen = build(method, **{"positions": ALL_PIXELS, "allocation": "uniform"} | options)
    return chosen.select(model, batches, sites, budget_for(sites, density), 0)


def permuted(model: nn.Module, sites: Sites, orders: dict[str, np.ndarray]) -> nn.Module:
    """The same function with the units of every site in another order: new unit j is old unit order[j]."""
    tensors = dict(model.state_dict())
    for name, order in orders.items():
        for slot in sites[name].slots:
            entries = np.arange(tensors[slot.tensor].shape[slot.dim])
            entries[slot.index.ravel()] = slot.index[order].ravel()
            tensors[slot.tensor] = tensors[slot.tensor].index_select(slot.dim, torch.from_numpy(entries))
    return after(model, tensors)


@pytest.mark.parametrize(("method", "options"), METHODS)
@pytest.mark.parametrize("name", ["residual", "branched", "flattened", "heads"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=3, phases=AS_GIVEN)
def test_permuting_the_units_permutes_the_plan(method, options, name, seed):
    model, batches = SUBJECTS[name].network(), SUBJECTS[name].batches(2, 12)
    sites = discover(model, SUBJECTS[name].example())
    rng = np.random.default_rng(seed)
    orders = {site: rng.permutation(sites[site].width) for site in sites}
    other = permuted(model, sites, orders)
    torch.testing.assert_close(other(batches[0]), model(batches[0]))
    plan = select(name, method, 0.6, batches, model, **options)
    found = select(name, method, 0.6, batches, other, **options)
    for choice, moved in zip(plan.choices, found.choices, strict=True):
        assert tuple(orders[moved.site][list(moved.order)]) == choice.order
        assert sorted(orders[moved.site][list(moved.kept)]) == list(choice.kept)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=2, phases=AS_GIVEN)
def test_permuting_the_units_permutes_the_plan_of_the_task_loss(seed):
    subject = SUBJECTS["mlp"]
    model, pairs = subject.network(), subject.pairs(1, 16)
    sites = discover(model, subject.example())
    rng = np.random.default_rng(seed)
    orders = {site: rng.permutation(sites[site].width) for site in sites}
    chosen = build("forward", objective="loss", refit=False)
    plan, found = (
        chosen.select(m, pairs, sites, budget_for(sites, 0.4), 0) for m in (model, permuted(model, sites, orders))
    )
    for choice, moved in zip(plan.choices, found.choices, strict=True):
        assert tuple(orders[moved.site][list(moved.order)]) == choice.order


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *METHODS,
        ("random", {"refit": True}),
        ("forward", {"objective": "average", "refit": False, "repetition": True}),
    ],
)
@given(densities=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)))
@settings(max_examples=4)
def test_plans_of_smaller_networks_are_prefixes_where_sites_see_the_same(method, options, densities):
    """Symmetric moments are those of the dense network, whatever is cut before."""
    batches = SUBJECTS["flattened"].batches(1, 24)
    small, large = (select("flattened", method, d, batches, asymmetric=False, **options) for d in sorted(densities))
    for fewer, more in zip(small.choices, large.choices, strict=True):
        count = min(len(fewer.order), len(more.order))
        assert fewer.order[:count] == more.order[:count]
        np.testing.assert_allclose(fewer.values[:count], more.values[:count], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", ["least_squares", "line_search", "average"])
def test_first_site_of_smaller_networks_is_a_prefix_with_asymmetric_targets(objective):
    batches = SUBJECTS["flattened"].batches(1, 24)
    small, large = (select("flattened", "forward", d, batches, objective=objective).choices[0] for d in (0.3, 0.7))
    assert len(small.order) < len(large.order)
    assert large.order[: len(small.order)] == small.order


@given(cuts=st.lists(st.integers(1, 39), max_size=4, unique=True))
@settings(max_examples=6)
def test_batches_may_be_split_in_any_way(cuts):
    name = "residual"
    (images,) = SUBJECTS[name].batches(1, 40)
    parts = [part for part in torch.tensor_split(images, sorted(cuts)) if len(part)]
    whole, split = (select(name, "forward", 0.6, batches) for batches in ([images], parts))
    assert [choice.order for choice in whole.choices] == [choice.order for choice in split.choices]
    assert whole.tensors.keys() == split.tensors.keys()
    for tensor_name, tensor in whole.tensors.items():
        torch.testing.assert_close(split.tensors[tensor_name], tensor, rtol=1e-7, atol=1e-9)


def peak_of_moments(monkeypatch: pytest.MonkeyPatch, count: int, allocation: str) -> int:
    """Most numbers that are held in moments at a time."""
    alive: weakref.WeakSet[Moments] = weakref.WeakSet()
    peak = 0
    make = Moments.__init__

    def counted(self: Moments, *args, **kwargs) -> None:
        nonlocal peak
        make(self, *args, **kwargs)
        alive.add(self)
        peak = max(peak, sum(m.xx.numel() + m.xy.numel() for m in alive))

    gc.collect()
    with monkeypatch.context() as patch:
        patch.setattr(Moments, "__init__", counted)
        select("residual", "forward", 0.6, SUBJECTS["residual"].batches(count, 4), allocation=allocation)
    return peak


@pytest.mark.parametrize("allocation", ["uniform", "curves"])
def test_more_batches_need_no_more_memory_for_moments(monkeypatch, allocation):
    few, many = (peak_of_moments(monkeypatch, count, allocation) for count in (3, 12))
    assert 0 < many <= few


@pytest.mark.parametrize(("method", "options"), [("forward", {}), ("random", {"refit": True}), ("l1", {"refit": True})])
def test_streams_take_the_beginning_of_the_path_that_gave_their_curve(method, options, monkeypatch):
    batches = SUBJECTS["residual"].batches(3, 8)
    plan = select("residual", method, 0.6, batches, allocation="curves", **options)
    ranker = type(build(method, **options).ranker)
    monkeypatch.setattr(ranker, "nested", property(lambda _: False))
    ranked_anew = select("residual", method, 0.6, batches, allocation="curves", **options)
    assert ranked_anew.kept == plan.kept
    for ours, theirs in zip(plan.choices, ranked_anew.choices, strict=True):
        assert (ours.order, ours.weights) == (theirs.order, theirs.weights)
        np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-9, atol=1e-12)


def test_the_survey_takes_as_many_examples_as_it_is_told_and_the_refit_all():
    batches = SUBJECTS["residual"].batches(3, 8)
    told = select("residual", "forward", 0.6, batches, allocation="curves", survey_examples=9)
    (seen,) = subsets(SUBJECTS["residual"].network(), batches, (9,), seeded(0))
    fewer = select("residual", "forward", 0.6, [*seen], allocation="curves")
    assert seen.count == 9
    every = select("residual", "forward", 0.6, batches, allocation="curves")
    assert told.widths == fewer.widths
    assert told.kept["stem"] == fewer.kept["stem"]
    assert any(not torch.equal(told.tensors[name], tensor) for name, tensor in fewer.tensors.items())
    assert told.choices[0].values != every.choices[0].values


def test_line_search_gives_others_what_a_saturated_site_cannot_use():
    network = alike("2")
    sites = discover(network, SUBJECTS["mlp"].example())
    model = CostModel(sites)
    plan = build("forward", objective="line_search", refit=False).select(
        network, SUBJECTS["mlp"].batches(), sites, Budget("macs<=8%"), 0
    )
    assert plan.widths["2"] < uniform(model, "macs<=8%")["2"]
    assert 0 <= Budget("macs<=8%").slack(model.cost(plan.widths), model.dense) <= TOLERANCE


def test_where_line_search_has_no_use_for_the_budget_the_status_says_so():
    network = alike("0", "2")
    sites = discover(network, SUBJECTS["mlp"].example())
    model = CostModel(sites)
    reasons = {
        "uniform": "line search gives weight to no more units; refit=True",
        "curves": "more units would not lower",
    }
    for allocation, reason in reasons.items():
        method = build("forward", objective="line_search", refit=False, allocation=allocation)
        plan = method.select(network, SUBJECTS["mlp"].batches(), sites, Budget("macs<=90%"), 0)
        used = model.cost(plan.widths).macs / model.dense.macs
        assert used < 0.5
        assert f"the budget macs<=90% is met with macs {used:.2%}: {reason}" in plan.status
    refitted = build("forward", objective="line_search").select(
        network, SUBJECTS["mlp"].batches(), sites, Budget("macs<=90%"), 0
    )
    assert sum(refitted.widths.values()) > 80


def alike(*names: str) -> nn.Module:
    """A perceptron with sites of which all units do the same: one of them is worth as much as all."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 60), nn.ReLU(), nn.Linear(60, 50), nn.Tanh(), nn.Linear(50, 4)).double()
    with torch.no_grad():
        for name in names:
            producer, consumer = network.get_submodule(name), network.get_submodule(str(int(name) + 2))
            for tensor, dim in ((producer.weight, 0), (producer.bias, 0), (consumer.weight, 1)):
                tensor.copy_(tensor.mean(dim, keepdim=True).expand_as(tensor))
    return network
