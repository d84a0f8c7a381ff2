"""Properties of plans: permutations, prefixes, batches, memory."""

import gc
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import selecting
from support.naive import after
from support.selecting import ALL_PIXELS
from support.subjects import SUBJECTS, budget_for
from torch import Tensor, nn

from scionet import prune
from scionet.budget.allocation.allocate import uniform
from scionet.budget.allocation.reach import TOLERANCE
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.choices.methods import Average, Forward, LeastSquares, OutputImitation, Stochastic, TaskLoss
from scionet.choices.repair import Reconstruct, Refit
from scionet.choices.resources import Resources
from scionet.choices.widths import Sensitivity
from scionet.errors import UnreachableBudget
from scionet.methods.pipeline import Pipeline
from scionet.methods.registry import GivenMethod
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.passes.moments import Moments
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.seeds import seeded

SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
"""Of random permutations."""
METHODS: list[tuple[GivenMethod, dict[str, Any]]] = [
    ("forward", {}),
    (Forward("line_search"), {}),
    (Forward("average"), {"repair": []}),
    ("l1", {}),
    ("bn_scale", {"repair": []}),
]


@cache
def network(name: str) -> tuple[nn.Module, Sites]:
    model = SUBJECTS[name].network()
    return model, discover(model, SUBJECTS[name].example())


def select(
    name: str,
    method: GivenMethod,
    density: float,
    batches: Iterable[Any],
    model: nn.Module | None = None,
    **choices: Any,
) -> Plan:
    """A plan at one density for all sites, on all pixels; refitted unless `repair` says otherwise."""
    model, sites = network(name) if model is None else (model, discover(model, SUBJECTS[name].example()))
    chosen = {"widths": "uniform", "resources": ALL_PIXELS} | choices
    return selecting.select(method, model, batches, sites, budget_for(sites, density), **chosen)


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
@pytest.mark.parametrize("seed", SEEDS)
def test_permuting_the_units_permutes_the_plan(method, options, name, seed) -> None:
    (model, sites), batches = network(name), SUBJECTS[name].batches(2, 12)
    rng = np.random.default_rng(seed)
    orders = {site: rng.permutation(sites[site].width) for site in sites}
    other = permuted(model, sites, orders)
    torch.testing.assert_close(other(batches[0]), model(batches[0]))
    plan = select(name, method, 0.6, batches, **options)
    found = select(name, method, 0.6, batches, other, **options)
    for choice, moved in zip(plan.choices, found.choices, strict=True):
        assert tuple(orders[moved.site][list(moved.order)]) == choice.order
        assert sorted(orders[moved.site][list(moved.kept)]) == list(choice.kept)


@pytest.mark.parametrize("seed", SEEDS)
def test_permuting_the_units_permutes_the_plan_of_the_task_loss(seed) -> None:
    (model, sites), pairs = network("mlp"), SUBJECTS["mlp"].pairs(1, 16)
    rng = np.random.default_rng(seed)
    orders = {site: rng.permutation(sites[site].width) for site in sites}
    plan, found = (
        select("mlp", Forward("task_loss"), 0.4, pairs, m, repair=[]) for m in (model, permuted(model, sites, orders))
    )
    for choice, moved in zip(plan.choices, found.choices, strict=True):
        assert tuple(orders[moved.site][list(moved.order)]) == choice.order


@pytest.mark.parametrize(
    "method",
    [
        "forward",
        Forward("line_search"),
        Forward("average"),
        Forward(Average(repetition=True)),
        "l1",
        "bn_scale",
        "random",
    ],
    ids=str,
)
@given(densities=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)))
@settings(max_examples=4)
def test_plans_of_smaller_networks_are_prefixes_where_sites_see_the_same(method, densities) -> None:
    """Symmetric moments are those of the dense network, whatever is cut before."""
    batches = SUBJECTS["flattened"].batches(1, 24)
    symmetric = [Refit(asymmetric=False)]
    small, large = (select("flattened", method, d, batches, repair=symmetric) for d in sorted(densities))
    for fewer, more in zip(small.choices, large.choices, strict=True):
        count = min(len(fewer.order), len(more.order))
        assert fewer.order[:count] == more.order[:count]
        np.testing.assert_allclose(fewer.values[:count], more.values[:count], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", ["least_squares", "line_search", "average"])
def test_first_site_of_smaller_networks_is_a_prefix_with_asymmetric_targets(objective) -> None:
    batches = SUBJECTS["flattened"].batches(1, 24)
    small, large = (select("flattened", Forward(objective), d, batches).choices[0] for d in (0.3, 0.7))
    assert len(small.order) < len(large.order)
    assert large.order[: len(small.order)] == small.order


COUNT = 100
"""Examples; two batches as calibration regroups them."""
FEW = Resources(positions=3, survey_examples=24)
"""Each convolution is fitted on 3 of the 25 pixels."""
SAMPLED: dict[str, tuple[GivenMethod, dict[str, Any]]] = {
    "few positions": ("forward", {}),
    "held-out shrinkage": ("forward", {"repair": [Refit(shrinkage="held_out")]}),
    "sensitivity of few examples": ("forward", {"widths": Sensitivity(examples=10)}),
    "search of the widths": ("l1", {"widths": Sensitivity(examples=10, search=2)}),
    "error curves": ("forward", {"widths": "error_curves"}),
    "second pass": (Forward(passes=2), {}),
    "reconstruction": ("l1", {"repair": ["refit", Reconstruct(steps=4)]}),
    "recalibration": ("l1", {"repair": ["refit", "recalibrate"]}),
    "output imitation": (Forward(LeastSquares(target="output")), {}),
    "labels": ("taylor", {"widths": Sensitivity(examples=10)}),
    "fresh batches": (Forward(TaskLoss(fresh_batches=True), Stochastic(sample_size=2)), {"repair": []}),
}


def labelled(count: int) -> list[tuple[Tensor, Tensor]]:
    return SUBJECTS["residual"].pairs(1, count)


def rebatched(sizes: Sequence[int]) -> list[tuple[Tensor, ...]]:
    """The same labelled examples in batches of these sizes."""
    ((images, labels),) = labelled(sum(sizes))
    return [*zip(images.split([*sizes]), labels.split([*sizes]), strict=True)]


def identity(name: str, batches: Iterable[Any]) -> str:
    method, choices = SAMPLED[name]
    return select("residual", method, 0.6, batches, resources=FEW, **choices).identity


@cache
def identity_of_one_batch(name: str) -> str:
    return identity(name, labelled(COUNT))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (number % 2)) for number, name in enumerate(SAMPLED)]
)
def test_the_same_examples_in_other_batches_give_the_same_plan(name) -> None:
    """Not nearly the same: batches are regrouped, and what is sampled is sampled by the example's number."""
    for size in (1, 16, 32, 64) if name == "few positions" else (1, 48):
        sizes = [size] * (COUNT // size) + [COUNT % size] * (COUNT % size > 0)
        assert identity(name, rebatched(sizes)) == identity_of_one_batch(name), size


@pytest.mark.parametrize(
    "name", ["few positions", "held-out shrinkage", "sensitivity of few examples", "reconstruction"]
)
@given(cuts=st.lists(st.integers(1, COUNT - 1), min_size=1, max_size=5, unique=True))
@settings(max_examples=4)
def test_batches_may_be_split_in_any_way(name, cuts) -> None:
    edges = [0, *sorted(cuts), COUNT]
    sizes = np.diff(edges).tolist()
    assert identity(name, rebatched(sizes)) == identity_of_one_batch(name)


def test_batches_may_be_split_in_any_way_also_in_single_precision_and_channels_last() -> None:
    model = SUBJECTS["residual"].network().float()
    (images,) = SUBJECTS["residual"].batches(1, 90)
    images = images.float()
    views = [[images], [*images.split(1)], [*images.split(16)], [images.contiguous(memory_format=torch.channels_last)]]
    plans = [select("residual", "forward", 0.6, batches, model, resources=FEW) for batches in views]
    assert len({plan.identity for plan in plans[:3]}) == 1
    assert plans[3].kept == plans[0].kept


def test_more_positions_than_pixels_take_all_of_them() -> None:
    plans = [
        select("residual", "forward", 0.6, labelled(30), resources=Resources(positions=positions))
        for positions in (25, 10_000)
    ]
    assert [choice.order for choice in plans[0].choices] == [choice.order for choice in plans[1].choices]
    assert all(torch.equal(tensor, plans[1].tensors[name]) for name, tensor in plans[0].tensors.items())


# -- how often the data are read -------------------------------------------------------------------------------------


@dataclass
class Counted:
    """Batches that count how often they are iterated."""

    batches: Sequence[Any]
    passes: int = field(default=0)
    given: int = field(default=0)

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        for batch in self.batches:
            self.given += 1
            yield batch


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"widths": Sensitivity(examples=8, search=2), "method": Forward(passes=2)},
        {"widths": "error_curves", "repair": [Refit(shrinkage="held_out"), "recalibrate", Reconstruct(steps=2)]},
        {"method": "taylor", "widths": Sensitivity(widths_per_site=2), "repair": ["refit", "recalibrate"]},
        {"method": "hrank", "repair": []},
        {"method": Forward("task_loss")},
        {"method": Forward(TaskLoss(scoring="taylor", fresh_batches=True)), "resources": Resources(memory_gib=0)},
        {"method": Forward(OutputImitation(keep_better=True)), "widths": "uniform"},
        {"method": Forward(LeastSquares(target="better"))},
        {"method": "energy", "widths": "isomorphic"},
        {"method": "l1", "widths": "uniform", "repair": ["recalibrate"]},
        {"method": "l1", "widths": "uniform", "repair": []},
        {"method": "random", "widths": "isomorphic", "repair": []},
    ],
    ids=str,
)
def test_the_data_are_read_once_whatever_is_asked_for(choices) -> None:
    subject, data = SUBJECTS["residual"], Counted(rebatched([12] * 3))
    prune(network("residual")[0], data, "macs<=60%", example_inputs=subject.example(), **choices)
    assert (data.passes, data.given) == (1, 3)


class Unreadable:
    """Data that nobody may iterate."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the data are read")


@pytest.mark.parametrize("choices", [{}, {"method": "l1"}, {"method": Forward("task_loss")}], ids=str)
def test_a_budget_out_of_reach_is_refused_before_any_data_are_read(choices) -> None:
    subject = SUBJECTS["residual"]
    with pytest.raises(UnreachableBudget):
        prune(subject.network(), Unreadable(), "macs<=0.1%", example_inputs=subject.example(), **choices)


# -- what is held in memory, and what is shared ----------------------------------------------------------------------


def peak_of_moments(monkeypatch: pytest.MonkeyPatch, count: int, widths: str) -> int:
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
        resources = replace(ALL_PIXELS, batch_size=4)
        batches = SUBJECTS["residual"].batches(count, 4)
        select("residual", "forward", 0.6, batches, widths=widths, resources=resources)
    return peak


@pytest.mark.parametrize("widths", ["uniform", "error_curves"])
def test_more_batches_need_no_more_memory_for_moments(monkeypatch, widths) -> None:
    few, many = (peak_of_moments(monkeypatch, count, widths) for count in (3, 12))
    assert 0 < many <= few


@pytest.mark.parametrize("method", ["forward", "random", "l1"])
def test_streams_take_the_beginning_of_the_path_that_gave_their_curve(method, monkeypatch) -> None:
    batches = SUBJECTS["residual"].batches(3, 8)
    plan = select("residual", method, 0.6, batches, widths="error_curves")
    pipeline = selecting.method_with(method)
    assert isinstance(pipeline, Pipeline)
    monkeypatch.setattr(type(pipeline.ranker), "nested", property(lambda _: False))
    ranked_again = select("residual", method, 0.6, batches, widths="error_curves")
    assert ranked_again.kept == plan.kept
    for ours, theirs in zip(plan.choices, ranked_again.choices, strict=True):
        assert (ours.order, ours.weights) == (theirs.order, theirs.weights)
        np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-9, atol=1e-12)


def test_the_survey_takes_as_many_examples_as_it_is_told_and_the_refit_all() -> None:
    subject = SUBJECTS["residual"]
    batches, curves = subject.batches(3, 8), dict[str, Any](widths="error_curves")
    told = select("residual", "forward", 0.6, batches, **curves, resources=replace(ALL_PIXELS, survey_examples=9))
    network = Network(model := subject.network(), discover(model, subject.example()))
    (seen,) = selecting.calibration_for(network, batches).parts((9,), seeded(0), network.device)
    fewer = select("residual", "forward", 0.6, seen.inputs, **curves)
    assert seen.count == 9
    every = select("residual", "forward", 0.6, batches, **curves)
    assert told.widths == fewer.widths
    assert told.kept["stem"] == fewer.kept["stem"]
    assert any(not torch.equal(told.tensors[name], tensor) for name, tensor in fewer.tensors.items())
    assert told.choices[0].values != every.choices[0].values


def test_line_search_gives_others_what_a_saturated_site_cannot_use() -> None:
    network = alike("2")
    sites = discover(network, SUBJECTS["mlp"].example())
    model = CostModel(sites)
    plan = line_searched(network, "macs<=8%", widths="uniform", repair=[])
    assert plan.widths["2"] < uniform(model, "macs<=8%")["2"]
    assert 0 <= Budget("macs<=8%").slack(model.cost(plan.widths), model.dense) <= TOLERANCE


def test_where_line_search_has_no_use_for_the_budget_the_status_says_so() -> None:
    network = alike("0", "2")
    model = CostModel(discover(network, SUBJECTS["mlp"].example()))
    reasons = {
        "uniform": "line search gives weight to no more units; a refit",
        "error_curves": "more units would not lower",
    }
    for widths, reason in reasons.items():
        plan = line_searched(network, "macs<=90%", widths=widths, repair=[])
        used = model.cost(plan.widths).macs / model.dense.macs
        assert used < 0.5
        assert f"the budget macs<=90% is met with macs {used:.2%}: {reason}" in plan.status
    refitted = line_searched(network, "macs<=90%")
    assert sum(refitted.widths.values()) > 80


def line_searched(network: nn.Module, budget: str, **choices: Any) -> Plan:
    sites, batches = discover(network, SUBJECTS["mlp"].example()), SUBJECTS["mlp"].batches()
    return selecting.select(Forward("line_search"), network, batches, sites, Budget(budget), **choices)


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
