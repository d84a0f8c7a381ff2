"""Uniform allocation, and what all kinds of allocation promise: the budget is met unless no widths meet it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.handmade_sites import all_allowed, chain, mixed, separate

from scionet.budget.allocation.allocate import uniform
from scionet.budget.allocation.curves import by_curves
from scionet.budget.allocation.ranked import by_scores
from scionet.budget.allocation.reach import TOLERANCE
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting, UnreachableBudget
from scionet.network.sites import Sites

NETS = {
    "chain": CostModel(chain([24, 40, 36]).sites),
    "flattened": CostModel(chain([24, 20], flatten=True).sites),
    "mixed": CostModel(mixed(24, 40, 20, 16, 16).sites),
    "tiny": CostModel(mixed().sites),
}
Allocate = Callable[..., dict[str, int]]


def curves_for(model: CostModel, seed: int = 0) -> dict[str, np.ndarray]:
    """Random falling curves, not convex."""
    rng = np.random.default_rng(seed)
    return {
        name: np.append(np.cumsum(rng.random(width)[::-1] ** 3)[::-1], 0) * rng.lognormal()
        for name, width in zip(model.names, model.full.tolist(), strict=True)
    }


def driven(model: CostModel, budget: str, **rounding: int) -> dict[str, int]:
    """`by_curves` with some curves."""
    return by_curves(model, budget, curves_for(model), **rounding)


def ranked(model: CostModel, budget: str, **rounding: int) -> dict[str, int]:
    """`by_scores` with some scores, sites in two groups."""
    rng = np.random.default_rng(0)
    scores = {name: rng.random(width) for name, width in zip(model.names, model.full.tolist(), strict=True)}
    return by_scores(model, budget, scores, [model.names[::2], model.names[1::2]], **rounding)


def narrowest(model: CostModel, round_to: int = 1, min_units: int = 1) -> dict[str, int]:
    """The narrowest allowed width of each site."""
    return {
        name: min(kept for kept in range(1, full + 1) if is_allowed(kept, full, round_to, min_units))
        for name, full in zip(model.names, model.full.tolist(), strict=True)
    }


def is_allowed(kept: int, full: int, round_to: int, min_units: int) -> bool:
    return kept == full or (kept % round_to == 0 and min_units <= kept < full)


budgets = st.builds(
    lambda parts: ", ".join(f"{q}<={p}%" for q, p in parts.items()),
    st.dictionaries(st.sampled_from(["macs", "params"]), st.integers(1, 100), min_size=1),
)


@pytest.mark.parametrize("allocate", [uniform, driven, ranked])
@settings(max_examples=60)
@given(st.sampled_from(sorted(NETS)), budgets, st.sampled_from([1, 2, 3, 8]), st.integers(1, 9))
def test_the_budget_is_met_unless_the_narrowest_network_exceeds_it(
    allocate: Allocate, name: str, budget: str, round_to: int, min_units: int
) -> None:
    model, limits = NETS[name], Budget(budget)
    rounding = {"round_to": round_to, "min_units": min_units}
    if not limits.met(model.cost(narrowest(model, **rounding)), model.dense):
        with pytest.raises(UnreachableBudget) as caught:
            allocate(model, budget, **rounding)
        assert str(limits) in str(caught.value)
        assert "of the dense network" in str(caught.value)
        return
    widths = allocate(model, budget, **rounding)
    assert list(widths) == list(model.names)
    for site, kept in widths.items():
        assert is_allowed(kept, model.sites[site].width, round_to, min_units)
    assert limits.met(model.cost(widths), model.dense)


@pytest.mark.parametrize("allocate", [uniform, driven, ranked])
@settings(max_examples=40)
@given(st.sampled_from(sorted(NETS)), budgets, st.sampled_from([1, 2, 3, 8]))
def test_where_more_than_a_percent_is_left_no_single_step_fits(
    allocate: Allocate, name: str, budget: str, round_to: int
) -> None:
    model, limits = NETS[name], Budget(budget)
    assume(limits.met(model.cost(narrowest(model, round_to, 1)), model.dense))
    widths = allocate(model, budget, round_to=round_to)
    if limits.slack(model.cost(widths), model.dense) <= TOLERANCE:
        return
    for site, kept in widths.items():
        full = model.sites[site].width
        wider = next((k for k in range(kept + 1, full + 1) if is_allowed(k, full, round_to, 1)), None)
        assert wider is None or not limits.met(model.cost({**widths, site: wider}), model.dense)


@pytest.mark.parametrize("allocate", [uniform, ranked])
@settings(max_examples=30)
@given(budgets)
def test_fine_networks_use_the_budget_up(allocate: Allocate, budget: str) -> None:
    model = NETS["chain"]
    assume(Budget(budget).met(model.cost(dict.fromkeys(model.names, 1)), model.dense))
    assert Budget(budget).slack(model.cost(allocate(model, budget)), model.dense) <= TOLERANCE


@pytest.mark.parametrize("allocate", [uniform, ranked])
@pytest.mark.parametrize("percent", range(15, 100, 5))
@pytest.mark.parametrize("round_to", [1, 2])
def test_a_coarse_network_comes_within_a_percent_where_that_is_possible_and_else_as_close_as_can_be(
    allocate: Allocate, percent: int, round_to: int
) -> None:
    model, limits = NETS["tiny"], Budget(f"macs<={percent}%")
    slacks = (limits.slack(model.cost(widths), model.dense) for widths in all_allowed(model, round_to))
    least = min((slack for slack in slacks if slack >= 0), default=None)
    if least is None:
        with pytest.raises(UnreachableBudget):
            allocate(model, limits, round_to=round_to)
        return
    slack = limits.slack(model.cost(allocate(model, limits, round_to=round_to)), model.dense)
    assert slack <= TOLERANCE if least <= TOLERANCE else slack == least


@pytest.mark.parametrize("allocate", [uniform, driven])
@pytest.mark.parametrize("budget", ["macs<=100%", "params<=1G", "macs<=1G, params<=100%"])
def test_a_budget_above_the_dense_cost_keeps_everything(allocate: Allocate, budget: str) -> None:
    model = NETS["mixed"]
    assert list(allocate(model, budget).values()) == model.full.tolist()


@pytest.mark.parametrize("allocate", [uniform, driven])
def test_an_unreachable_budget_names_the_smallest_cost(allocate: Allocate) -> None:
    model = NETS["chain"]
    least = model.cost(dict.fromkeys(model.names, 8))
    with pytest.raises(UnreachableBudget) as caught:
        allocate(model, "macs<=1%", round_to=8)
    assert str(least) in str(caught.value)
    assert f"{least.macs / model.dense.macs:.2%}" in str(caught.value)
    assert "round_to" in str(caught.value)


@pytest.mark.parametrize("allocate", [uniform, driven])
def test_coarse_steps_end_below_the_budget(allocate: Allocate) -> None:
    model = CostModel(separate([16, 16, 16, 16], [1000, 1000, 1000, 1000]))
    assert sum(allocate(model, "macs<=60%", round_to=8).values()) == 32
    assert sum(allocate(model, "macs<=60%", round_to=1).values()) == 38
    assert sum(allocate(model, "macs<=62.5%", round_to=8).values()) == 40


@pytest.mark.parametrize("allocate", [uniform, driven])
def test_numbers_of_heads_are_not_rounded(allocate: Allocate) -> None:
    sites = separate([12, 64], [1000, 1000])
    heads = replace(sites, sites={**sites, "s0": replace(sites["s0"], unit="head")})
    assert allocate(CostModel(heads), "macs<=46.1%", round_to=8)["s0"] % 8 != 0
    assert allocate(CostModel(sites), "macs<=52.7%", round_to=8)["s0"] % 8 == 0


@pytest.mark.parametrize("wrong", [{"round_to": 0}, {"min_units": 0}, {"round_to": -8}])
@pytest.mark.parametrize("allocate", [uniform, driven])
def test_settings_below_one_are_refused(allocate: Allocate, wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting, match="at least 1"):
        allocate(NETS["tiny"], "macs<=50%", **wrong)


def test_sites_narrower_than_round_to_stay_whole() -> None:
    model = CostModel(separate([5, 64, 20], [10, 10, 10]))
    widths = uniform(model, "macs<=50.6%", round_to=8)
    assert widths["s0"] == 5
    assert widths["s1"] % 8 == 0
    assert widths["s2"] in (8, 16, 20)


@pytest.mark.parametrize("allocate", [uniform, driven])
def test_without_sites_only_a_budget_that_is_met_already_is_accepted(allocate: Allocate) -> None:
    net = chain([4]).sites
    model = CostModel(Sites({}, {}, net.operations, net.shapes, net.parameters))
    assert allocate(model, "macs<=100%") == {}
    with pytest.raises(UnreachableBudget, match=r"macs 100\.00%"):
        allocate(model, "macs<=99%")


@pytest.mark.parametrize("budget", ["macs<=70%", "macs<=31%", "params<=50%", "macs<=60%, params<=40%"])
def test_uniform_keeps_one_density_up_to_a_step(budget: str) -> None:
    model = NETS["chain"]
    densities = np.array(list(uniform(model, budget).values())) / model.full
    common = densities - 1 / model.full
    assert common.max() <= densities.min() + 1e-12


@settings(max_examples=50)
@given(st.sampled_from(["macs", "params"]), st.integers(5, 100), st.integers(5, 100))
def test_a_larger_budget_never_means_a_smaller_common_density(quantity: str, one: int, other: int) -> None:
    model = NETS["chain"]
    low, high = (uniform(model, f"{quantity}<={p}%") for p in sorted((one, other)))
    # The step that a site was given beyond the common density may go to another site under another budget.
    assert all(high[name] >= low[name] - 1 for name in model.names)
    assert Budget(f"{quantity}<={min(one, other)}%").met(model.cost(low), model.dense)
    assert min(high[n] / w for n, w in zip(model.names, model.full, strict=True)) >= min(
        low[n] / w - 1 / w for n, w in zip(model.names, model.full, strict=True)
    )


def test_uniform_is_the_largest_common_density() -> None:
    model, budget = NETS["chain"], Budget("macs<=50%")
    widths = uniform(model, budget)
    for density in np.linspace(0.01, 1, 400):
        common = {n: max(1, int(density * w)) for n, w in zip(model.names, model.full.tolist(), strict=True)}
        if budget.met(model.cost(common), model.dense):
            assert all(widths[n] >= common[n] for n in model.names)


@pytest.mark.parametrize("allocate", [uniform, driven])
@settings(max_examples=20)
@given(st.sampled_from(sorted(NETS)), st.integers(30, 100), st.data())
def test_sites_keep_at_most_what_they_can_use(allocate: Allocate, name: str, percent: int, data: st.DataObject) -> None:
    model, limits = NETS[name], Budget(f"macs<={percent}%")
    most = {site: data.draw(st.integers(1, full)) for site, full in zip(model.names, model.full.tolist(), strict=True)}
    assume(limits.met(model.cost(narrowest(model)), model.dense))
    widths = allocate(model, str(limits), max_units=most)
    assert all(widths[site] <= most[site] for site in model.names)
    assert limits.met(model.cost(widths), model.dense)
    assert widths == most or not limits.met(model.cost(most), model.dense)


def test_the_narrowest_width_stays_allowed_below_the_maximum() -> None:
    model = NETS["chain"]
    widths = uniform(model, "macs<=58.5%", round_to=8, max_units={model.names[0]: 3})
    assert widths[model.names[0]] == 8
