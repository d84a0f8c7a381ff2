"""Allocation under limits on latency: within the limit or refused, and near the best there is."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clocks import handmade
from support.handmade_sites import brute_force, chain, mixed

from scionet.budget.allocation.allocate import uniform
from scionet.budget.allocation.curves import by_curves
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting, UnreachableBudget
from scionet.typing import FloatArray

WIDE = CostModel(chain([24, 40, 36]).sites, handmade(chain([24, 40, 36]).sites, 0))
COUPLED = CostModel(mixed(24, 40, 20, 16, 16).sites, handmade(mixed(24, 40, 20, 16, 16).sites, 0))
Allocate = Callable[..., dict[str, int]]
budgets = st.builds(
    lambda parts: ", ".join(f"{q}<={p}%" for q, p in parts.items()),
    st.dictionaries(st.sampled_from(["macs", "params", "latency"]), st.integers(5, 100), min_size=1).filter(
        lambda parts: "latency" in parts
    ),
)


def curves(model: CostModel, rng: np.random.Generator) -> dict[str, FloatArray]:
    """Falling curves that end in 0."""
    return {
        name: np.append(np.cumsum(rng.random(width)[::-1] ** 2)[::-1], 0) * rng.lognormal()
        for name, width in zip(model.names, model.full.tolist(), strict=True)
    }


def sizes(model: CostModel) -> dict[str, int]:
    """The full width of each site."""
    return dict(zip(model.names, model.full.tolist(), strict=True))


def driven(model: CostModel, budget: str, **rounding: int) -> dict[str, int]:
    """`by_curves` with some curves."""
    return by_curves(model, budget, curves(model, np.random.default_rng(0)), **rounding)


@pytest.mark.parametrize("allocate", [uniform, driven])
@settings(max_examples=12)
@given(st.sampled_from([WIDE, COUPLED]), budgets, st.sampled_from([1, 2, 8]))
def test_all_limits_are_met_or_the_narrowest_network_exceeds_them(
    allocate: Allocate, model: CostModel, budget: str, round_to: int
) -> None:
    try:
        widths = allocate(model, budget, round_to=round_to)
    except UnreachableBudget as error:
        assert "latency" in str(error)
        assert " ms " in str(error)
        narrowest = {name: round_to if round_to < full else full for name, full in sizes(model).items()}
        assert not Budget(budget).met(model.cost(narrowest), model.dense)
        return
    assert Budget(budget).met(model.cost(widths), model.dense)


def test_near_the_best_of_all_widths() -> None:
    ratios = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        net = chain(rng.integers(4, 8, 3).tolist()) if seed % 2 else mixed(*rng.integers(2, 5, 5).tolist())
        model = CostModel(net.sites, handmade(net.sites, seed, steps=(0.2, 0.5)[seed // 2 % 2]))
        budget = ("latency<=60%", "latency<=80%", "latency<=70%, macs<=60%")[seed % 3]
        errors = curves(model, rng)
        found = by_curves(model, budget, errors)
        ratios.append(sum(errors[name][kept] for name, kept in found.items()) / brute_force(model, budget, errors))
    assert min(ratios) > 1 - 1e-9
    assert np.mean(np.array(ratios) < 1 + 1e-9) > 0.7
    assert np.mean(ratios) < 1.1


def test_an_absolute_limit_is_in_milliseconds() -> None:
    cap = 0.6 * (WIDE.dense.latency_ms or 0)
    assert uniform(WIDE, f"latency<={cap * 1e3!r}us") == uniform(WIDE, f"latency<={cap!r}ms")
    assert (
        0.59 < (WIDE.cost(uniform(WIDE, f"latency<={cap!r}ms")).latency_ms or 0) / (WIDE.dense.latency_ms or 1) <= 0.6
    )
    with pytest.raises(UnreachableBudget, match=r"latency<=0\.001ms cannot be reached: .* ms \(macs .*latency [\d.]+%"):
        uniform(WIDE, "latency<=1us")


@pytest.mark.parametrize("allocate", [uniform, driven])
def test_a_limit_that_the_dense_network_meets_keeps_everything(allocate: Allocate) -> None:
    assert list(allocate(WIDE, "latency<=100%").values()) == WIDE.full.tolist()


@pytest.mark.parametrize("budget", ["latency<=60%", "latency<=3ms", "macs<=50%, latency<=60%"])
def test_latency_is_not_limited_without_a_table(budget: str) -> None:
    model = CostModel(chain([8, 8]).sites)
    for allocate in (uniform, driven):
        with pytest.raises(InvalidSetting, match="needs a latency table"):
            allocate(model, budget)


def test_a_table_changes_nothing_where_latency_is_not_limited() -> None:
    counted = CostModel(WIDE.sites)
    for budget in ("macs<=50%", "macs<=60%, params<=50%"):
        for allocate in (uniform, driven):
            assert allocate(WIDE, budget, round_to=2) == allocate(counted, budget, round_to=2)
