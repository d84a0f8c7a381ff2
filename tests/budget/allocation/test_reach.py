"""Budgets that no widths meet, and what is said of those that are not used up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.handmade_sites import all_allowed, mixed, separate

from scionet.budget.allocation.reach import TOLERANCE, refuse_unreachable, shortfall
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting, UnreachableBudget

TINY = CostModel(mixed().sites)
FOUR = CostModel(separate([16, 16, 16, 16], [1000, 1000, 1000, 1000]))


@settings(max_examples=30)
@given(st.sampled_from(["macs", "params"]), st.integers(1, 60), st.integers(1, 3), st.integers(1, 4))
def test_only_budgets_that_no_widths_meet_are_refused(quantity: str, percent: int, round_to: int, units: int) -> None:
    budget = Budget(f"{quantity}<={percent}%")
    combinations = all_allowed(TINY, round_to, units)
    if any(budget.met(TINY.cost(widths), TINY.dense) for widths in combinations):
        refuse_unreachable(TINY, budget, round_to=round_to, min_units=units)
        return
    least = min(TINY.cost(widths).macs for widths in combinations)
    with pytest.raises(UnreachableBudget, match=f"macs {least / TINY.dense.macs:.2%}, params .* of the dense network"):
        refuse_unreachable(TINY, budget, round_to=round_to, min_units=units)


@pytest.mark.parametrize("wrong", [{"round_to": 0}, {"min_units": 0}])
def test_roundings_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting, match="at least 1"):
        refuse_unreachable(TINY, Budget("macs<=50%"), **wrong)


def test_widths_within_a_percent_of_the_budget_need_no_word() -> None:
    widths = dict.fromkeys(FOUR.names, 8)
    assert shortfall(FOUR, Budget("macs<=50%"), widths) == ""
    assert shortfall(FOUR, Budget("macs<=51%"), widths) == ""
    assert shortfall(FOUR, Budget("macs<=90%, params<=50.5%"), widths) == ""
    assert shortfall(FOUR, Budget("macs<=51.1%"), widths) != ""


def test_nothing_is_said_of_a_network_that_stays_whole() -> None:
    assert shortfall(FOUR, Budget("macs<=1G"), dict(zip(FOUR.names, FOUR.full.tolist(), strict=True))) == ""
    assert shortfall(FOUR, Budget("macs<=1G"), {}) == ""


def test_coarse_steps_are_told_from_units_of_no_use() -> None:
    widths, budget = dict.fromkeys(FOUR.names, 8), Budget("macs<=60%")
    met = "the budget macs<=60% is met with macs 50.00%: "
    assert shortfall(FOUR, budget, widths, round_to=8) == met + "one step more at any site would exceed it"
    assert shortfall(FOUR, budget, widths) == met + "more units would not lower the predicted error"
    assert shortfall(FOUR, budget, widths, unused="they are ugly") == met + "they are ugly"


def test_every_limited_quantity_is_named_and_no_other() -> None:
    widths = dict.fromkeys(FOUR.names, 8)
    both = shortfall(FOUR, Budget("params<=90%, macs<=60%"), widths)
    assert both.startswith("the budget macs<=60%, params<=90% is met with macs 50.00%, params 50.00%: ")
    assert "macs" not in shortfall(FOUR, Budget("params<=60%"), widths)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(10, 100))
def test_what_is_said_agrees_with_a_count_of_what_would_fit(seed: int, percent: int) -> None:
    rng, budget = np.random.default_rng(seed), Budget(f"macs<={percent}%")
    widths = {name: int(rng.integers(1, full + 1)) for name, full in zip(TINY.names, TINY.full.tolist(), strict=True)}
    slack = budget.slack(TINY.cost(widths), TINY.dense)
    if slack < 0:
        return
    wider = [{**widths, name: kept + 1} for name, kept in widths.items() if kept < TINY.sites[name].width]
    fits = any(budget.met(TINY.cost(each), TINY.dense) for each in wider)
    said = shortfall(TINY, budget, widths)
    assert bool(said) == (slack > TOLERANCE and bool(wider))
    assert not said or said.endswith("predicted error" if fits else "would exceed it")
