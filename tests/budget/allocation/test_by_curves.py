"""Allocation by error curves: optimal where that can be had, near the best of all combinations elsewhere, and quick."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.handmade_sites import all_allowed, brute_force, chain, mixed, separate, slot

from scionet.budget.allocation.allocate import uniform
from scionet.budget.allocation.curves import by_curves
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting, UnreachableBudget
from scionet.network.sites import Operation, Site, Sites
from scionet.typing import FloatArray

Curves = dict[str, FloatArray]


def convex(widths: list[int], rng: np.random.Generator) -> Curves:
    """Falling convex curves that end in 0."""
    return {f"s{i}": falling(np.sort(rng.random(w))[::-1]) * rng.lognormal() for i, w in enumerate(widths)}


def falling(drops: FloatArray) -> FloatArray:
    """The curve that ends in 0 and falls by so much with each unit."""
    return np.append(np.cumsum(drops[::-1])[::-1], 0)


def summed(errors: Curves, widths: dict[str, int]) -> float:
    return float(sum(errors[name][kept] for name, kept in widths.items()))


def negligible(errors: Curves) -> float:
    """What may be given away where widths are good enough: 1e-5 of each site's largest error."""
    return 1e-5 * sum(curve[np.isfinite(curve)].max() for curve in errors.values())


def least_by_dynamic_programming(widths: list[int], costs: list[int], errors: Curves, cap: int) -> float:
    """The least summed error at total cost at most `cap`, exactly, for additive integer costs."""
    best = np.zeros(cap + 1)
    for i, (width, cost) in enumerate(zip(widths, costs, strict=True)):
        options = [
            np.concatenate(
                (np.full(min(k * cost, cap + 1), np.inf), best[: max(cap + 1 - k * cost, 0)] + errors[f"s{i}"][k])
            )
            for k in range(1, width + 1)
        ]
        best = np.min(options, axis=0)
    return float(best[cap])


@settings(max_examples=40)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.integers(0, 99), st.integers(1, 100))
def test_optimal_for_convex_curves_and_equal_costs(widths: list[int], seed: int, percent: int) -> None:
    errors = convex(widths, np.random.default_rng(seed))
    model = CostModel(separate(widths, [7] * len(widths)))
    units = percent * sum(widths) // 100
    assume(units >= len(widths))
    found = by_curves(model, f"macs<={percent}%", errors)
    best = least_by_dynamic_programming(widths, [1] * len(widths), errors, units)
    assert sum(found.values()) <= units
    assert summed(errors, found) <= best * (1 + 1e-9) + negligible(errors)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(20, 40), st.integers(1, 9)), min_size=3, max_size=6),
    st.integers(0, 99),
    st.integers(20, 95),
)
def test_optimal_up_to_one_step_for_convex_curves_and_unequal_costs(
    sites: list[tuple[int, int]], seed: int, percent: int
) -> None:
    widths, costs = map(list, zip(*sites, strict=True))
    errors = convex(widths, np.random.default_rng(seed))
    model = CostModel(separate(widths, costs))
    cap = int(percent / 100 * model.dense.macs)
    assume(cap >= sum(costs) + max(costs))
    found = by_curves(model, f"macs<={cap}", errors)
    one_step_less = least_by_dynamic_programming(widths, costs, errors, cap - max(costs))
    assert summed(errors, found) <= one_step_less * (1 + 1e-9) + negligible(errors)


def tiny_problem(seed: int) -> tuple[CostModel, str, Curves]:
    """A coupled network with few units and rough curves."""
    rng = np.random.default_rng(seed)
    net = chain(rng.integers(4, 10, 3).tolist()) if seed % 2 else mixed(*rng.integers(3, 6, 5).tolist())
    model = CostModel(net.sites)
    roughness = (1, 3)[seed // 2 % 2]
    errors = {
        name: falling(rng.random(width) ** roughness) * rng.lognormal()
        for name, width in zip(model.names, model.full.tolist(), strict=True)
    }
    return model, ("macs<=60%", "params<=45%", "macs<=60%, params<=60%")[seed % 3], errors


@pytest.mark.parametrize("round_to", [1, 2])
def test_in_small_networks_it_is_the_best_of_all_combinations(round_to: int) -> None:
    for seed in range(60):
        model, budget, errors = tiny_problem(seed)
        if np.isfinite(best := brute_force(model, budget, errors, round_to)):
            found = summed(errors, by_curves(model, budget, errors, round_to=round_to))
            assert best * (1 - 1e-9) <= found <= best * (1 + 1e-9) + negligible(errors)


@pytest.mark.slow
def test_the_search_comes_near_the_best_of_all_combinations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scionet.budget.allocation.curves.is_small", lambda ladder: False)
    ratios = []
    for seed in range(60):
        model, budget, errors = tiny_problem(seed)
        ratios.append(summed(errors, by_curves(model, budget, errors)) / brute_force(model, budget, errors))
    assert min(ratios) > 1 - 1e-9
    assert np.mean(np.array(ratios) < 1 + 1e-9) > 0.85
    assert np.mean(ratios) < 1.1


@settings(max_examples=30)
@given(st.integers(0, 50), st.integers(20, 100), st.integers(20, 100))
def test_in_small_networks_a_larger_budget_never_means_a_larger_error(seed: int, one: int, other: int) -> None:
    model, _, errors = tiny_problem(seed)
    less, more = sorted((one, other))
    assume(Budget(f"macs<={less}%").met(model.cost(dict.fromkeys(model.names, 1)), model.dense))
    low, high = (by_curves(model, f"macs<={percent}%", errors) for percent in (less, more))
    assert summed(errors, high) <= summed(errors, low) * (1 + 1e-9) + negligible(errors)


@pytest.mark.parametrize("seed", range(4))
def test_in_larger_networks_a_larger_budget_means_no_more_than_a_tenth_of_error_more(seed: int) -> None:
    """The search is a heuristic: it may find a little less under a larger budget."""
    rng = np.random.default_rng(seed)
    model = CostModel(chain([24, 40, 36, 30]).sites)
    errors = {
        name: falling(rng.random(width) ** 2) * rng.lognormal()
        for name, width in zip(model.names, model.full.tolist(), strict=True)
    }
    found = [summed(errors, by_curves(model, f"macs<={percent}%", errors)) for percent in range(5, 101, 5)]
    assert all(more <= 1.1 * less + 1e-12 for less, more in pairwise(found))
    assert found[-1] == 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", ["macs<=30%", "params<=60%", "macs<=70%, params<=50%"])
def test_never_worse_than_the_uniform_allocation(seed: int, budget: str) -> None:
    rng = np.random.default_rng(seed)
    model = CostModel(chain([24, 40, 36]).sites)
    errors = {
        name: falling(rng.random(width) ** 3) * rng.lognormal()
        for name, width in zip(model.names, model.full.tolist(), strict=True)
    }
    found, even = by_curves(model, budget, errors), uniform(model, budget)
    assert summed(errors, found) < summed(errors, even)


def network(widths: list[int], rng: np.random.Generator) -> Sites:
    """A chain of 3x3 convolutions on maps of random sizes, without any module."""
    sizes = [3, *widths, 10]
    shapes = {f"{i}.w": (sizes[i + 1], sizes[i], 3, 3) for i in range(len(sizes) - 1)}
    operations = tuple(
        Operation(name, float(np.prod(shape)) * int(rng.integers(1, 200))) for name, shape in shapes.items()
    )
    sites = {
        f"s{i}": Site(f"s{i}", w, (slot(f"{i}.w", 0, w), slot(f"{i + 1}.w", 1, w)), (f"{i}.w",), (f"{i + 1}.w",))
        for i, w in enumerate(widths)
    }
    return Sites(sites, {}, operations, shapes, tuple(shapes))


def seconds_per_evaluation(model: CostModel) -> float:
    model.evaluate(model.full)
    begin = time.process_time()
    for _ in range(2000):
        model.evaluate(model.full)
    return (time.process_time() - begin) / 2000


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["macs<=50%", "params<=90%", "macs<=50%, params<=40%"])
@pytest.mark.parametrize("round_to", [1, 8])
def test_sixty_wide_sites_take_less_time_than_200_000_evaluations_of_the_cost(budget: str, round_to: int) -> None:
    rng = np.random.default_rng(0)
    widths = [2000, *rng.integers(200, 2000, 59).tolist()]
    model = CostModel(network(widths, rng))
    errors = {
        f"s{i}": rng.lognormal(0, 2) * np.linspace(1, 0, w + 1) ** rng.uniform(1, 4) for i, w in enumerate(widths)
    }
    once = seconds_per_evaluation(model)
    begin = time.process_time()
    found = by_curves(model, budget, errors, round_to=round_to)
    even = uniform(model, budget, round_to=round_to)
    # About 0.3 s; as a ratio, because the machines that run the tests are shared.
    assert time.process_time() - begin < 200_000 * once
    assert Budget(budget).slack(model.cost(found), model.dense) < 1e-3
    assert summed(errors, found) < 0.5 * summed(errors, even)


def test_plateaus_are_crossed_at_one_go() -> None:
    """Four steps among sixty units: single units look worthless, only the hull shows where the next gain is."""
    ratios = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        drops = np.zeros((5, 60))
        for row in drops:
            row[rng.choice(60, 4, replace=False)] = rng.random(4)
        errors = {f"s{i}": falling(row) for i, row in enumerate(drops)}
        found = by_curves(CostModel(separate([60] * 5, [3] * 5)), "macs<=50%", errors)
        ratios.append(summed(errors, found) / least_by_dynamic_programming([60] * 5, [1] * 5, errors, 150))
    assert min(ratios) > 1 - 1e-9
    assert np.mean(ratios) < 1.05


def test_a_forbidden_width_is_never_taken() -> None:
    errors = {"s0": np.array([np.inf] * 30 + list(np.linspace(1, 0, 11))), "s1": np.linspace(1, 0, 41)}
    model = CostModel(separate([40, 40], [5, 5]))
    assert by_curves(model, "macs<=40%", errors) == {"s0": 31, "s1": 1}
    assert by_curves(model, "macs<=38.75%", errors) == {"s0": 30, "s1": 1}
    with pytest.raises(UnreachableBudget, match=r"macs 38\.75%"):
        by_curves(model, "macs<=38%", errors)


def test_noise_does_not_make_more_units_look_worse() -> None:
    noisy = np.array([5.0, 4, 3, 2, 1, 0.5, 0.9, 0.7, 0.6, 0.55, 0.52])
    model = CostModel(separate([10, 10], [5, 5]))
    errors = {"s0": noisy, "s1": 10 * np.linspace(1, 0, 11)}
    assert by_curves(model, "macs<=75%", errors) == {"s0": 5, "s1": 10}


def test_units_that_lower_no_error_are_left_out_even_where_they_fit() -> None:
    flat = np.array([5.0, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0])
    inner = np.array([5.0, 4, 4, 4, 4, 4, 4, 4, 4, 4, 0])
    model = CostModel(separate([10, 10], [5, 5]))
    assert by_curves(model, "macs<=80%", {"s0": flat, "s1": flat}) == {"s0": 5, "s1": 5}
    assert by_curves(model, "macs<=100%", {"s0": flat, "s1": flat}) == {"s0": 5, "s1": 5}
    assert by_curves(model, "macs<=50%", {"s0": flat, "s1": inner}) == {"s0": 5, "s1": 1}
    assert by_curves(model, "macs<=80%", {"s0": flat, "s1": flat}, round_to=4) == {"s0": 8, "s1": 8}
    assert by_curves(model, "macs<=50%", {"s0": 0 * flat, "s1": flat}) == {"s0": 1, "s1": 5}


def test_what_a_ridge_makes_of_duplicates_does_not_count() -> None:
    """Eight units that do everything and eight more that each halve what is left of the error, which is nothing."""
    curve = np.append(np.linspace(1, 0.2, 8), 1e-6 * 0.5 ** np.arange(9))
    model = CostModel(separate([16] * 6, [5] * 6))
    errors = dict.fromkeys(model.names, curve)
    assert by_curves(model, "macs<=90%", errors) == dict.fromkeys(model.names, 8)
    assert by_curves(model, "macs<=50%", errors) == dict.fromkeys(model.names, 8)
    assert by_curves(model, "macs<=100%", errors) == dict.fromkeys(model.names, 16)


@settings(max_examples=30)
@given(st.integers(0, 50), st.integers(30, 99))
def test_among_equal_errors_the_cheapest_wins(seed: int, percent: int) -> None:
    rng = np.random.default_rng(seed)
    model = CostModel(chain(rng.integers(4, 9, 3).tolist()).sites)
    errors = {
        name: np.append(np.sort(rng.integers(1, 4, full))[::-1], 0.0)
        for name, full in zip(model.names, model.full.tolist(), strict=True)
    }
    limits = Budget(f"macs<={percent}%")
    found = by_curves(model, limits, errors)
    for widths in all_allowed(model):
        cost = model.cost(widths)
        if limits.met(cost, model.dense) and summed(errors, widths) <= summed(errors, found):
            assert summed(errors, widths) == summed(errors, found)
            assert cost.macs >= model.cost(found).macs


def test_equal_curves_and_equal_sites_share_equally() -> None:
    model = CostModel(separate([100] * 4, [3] * 4))
    errors = {f"s{i}": np.linspace(1, 0, 101) ** 2 for i in range(4)}
    assert by_curves(model, "macs<=37%", errors) == {f"s{i}": 37 for i in range(4)}


@settings(max_examples=15)
@given(st.integers(0, 50), st.floats(1e-6, 1e6))
def test_the_scale_of_the_errors_does_not_matter(seed: int, scale: float) -> None:
    model, budget, errors = tiny_problem(2 * seed + 1)
    expected = by_curves(model, budget, errors)
    scaled = {name: curve * 2.0 ** round(np.log2(scale)) for name, curve in errors.items()}
    assert by_curves(model, budget, scaled) == expected


def test_curves_that_do_not_fit_are_refused_all_at_once() -> None:
    model = CostModel(separate([3, 3, 3, 3], [1, 1, 1, 1]))
    good = np.array([3.0, 2, 1, 0])
    errors = {"s0": good, "s1": good[:-1], "s2": good * np.nan, "x": good}
    with pytest.raises(InvalidSetting) as caught:
        by_curves(model, "macs<=50%", errors)
    for said in ("'x'", "'s1' needs 4 values", "'s2' has a NaN", "'s3' needs 4 values"):
        assert said in str(caught.value)
    assert "'s0'" not in str(caught.value)
