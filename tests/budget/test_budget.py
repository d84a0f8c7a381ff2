"""Budgets: reading, writing, arithmetic, refusals."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scionet.budget.budget import QUANTITIES, Budget, Caps, Limit
from scionet.budget.costs import Cost
from scionet.errors import InvalidSetting

DENSE = Cost(macs=4e9, params=1000, latency_ms=0.25)

fractions = st.floats(0, 1, exclude_min=True)
amounts = st.floats(1, 1e15)
limits = st.one_of(
    st.builds(Limit, st.sampled_from(sorted(QUANTITIES)), fractions, st.just(True)),
    st.builds(Limit, st.sampled_from(["macs", "params"]), amounts, st.just(False)),
    st.builds(Limit, st.just("latency"), st.floats(1e-9, 1e9), st.just(False)),
)
budgets = st.lists(limits, min_size=1, max_size=6, unique_by=lambda x: (x.quantity, x.relative)).map(
    lambda parts: Budget(*parts)
)


@pytest.mark.parametrize(
    ("text", "canonical", "caps"),
    [
        ("macs<=50%", "macs<=50%", Caps(macs=2e9)),
        (" params <= 12.5 % ", "params<=12.5%", Caps(params=125)),
        ("macs<=100%", "macs<=100%", Caps(macs=4e9)),
        ("params<=1.2M", "params<=1.2M", Caps(params=1.2e6)),
        ("params<=1200000", "params<=1.2M", Caps(params=1.2e6)),
        ("params<=12e2", "params<=1.2K", Caps(params=1200)),
        ("params<=999", "params<=999", Caps(params=999)),
        ("macs<=2.0g", "macs<=2G", Caps(macs=2e9)),
        ("params<=40%, macs<=2.0G", "macs<=2G, params<=40%", Caps(macs=2e9, params=400)),
        ("latency<=60%", "latency<=60%", Caps(latency_ms=0.15)),
        ("latency <= 5 ms", "latency<=5ms", Caps(latency_ms=5)),
        ("latency<=0.005s", "latency<=5ms", Caps(latency_ms=5)),
        ("latency<=120us", "latency<=0.12ms", Caps(latency_ms=0.12)),
        ("macs<=50%, latency<=60%", "latency<=60%, macs<=50%", Caps(macs=2e9, latency_ms=0.15)),
        ("latency<=50% and latency<=0.1ms", "latency<=0.1ms, latency<=50%", Caps(latency_ms=0.1)),
        ("macs<=3G & macs<=50%", "macs<=3G, macs<=50%", Caps(macs=2e9)),
        ("macs<=50% and params<=50%", "macs<=50%, params<=50%", Caps(macs=2e9, params=500)),
    ],
)
def test_texts_are_read_and_written(text: str, canonical: str, caps: Caps) -> None:
    budget = Budget(text)
    assert str(budget) == canonical
    assert budget.absolute(DENSE) == caps


@given(budgets)
def test_the_canonical_text_is_read_back_to_an_equal_budget(budget: Budget) -> None:
    assert Budget(str(budget)) == budget
    assert Budget(*map(str, budget.limits)) == budget


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a limit"),
        ("50%", """given '50%'; did you mean "macs<=50%"?"""),
        ("0.5", 'did you mean "macs<=50%"?'),
        ("macs<=", "is not a limit"),
        ("macs<=50%,", "is not a limit"),
        ("macs<=1.2.3M", "is not a limit"),
        ("macs<=nan", "is not a limit"),
        ("macs<=inf", "is not a limit"),
        ("macs<50%", "written with '<='"),
        ("macs=50%", "written with '<='"),
        ("macs>=50%", "written with '<='"),
        ("macs≤50%", "written with '<='"),
        ("macs<=0%", "above 0% and at most 100%; given 0%"),
        ("macs<=-5%", "above 0% and at most 100%; given -5%"),
        ("macs<=100.5%", "above 0% and at most 100%; given 100.5%"),
        ("macs<=0", "finite number of 1 or more; given macs<=0"),
        ("params<=-3M", "finite number of 1 or more"),
        ("params<=0.5", "written with %"),
        ("params<=1e400", "finite number of 1 or more"),
        ("params<=2T", "unknown unit 'T'"),
        ("latency<=5", "a unit of time is missing in 'latency<=5'; allowed: %, us, ms, s"),
        ("latency<=5M", "unknown unit 'M' in 'latency<=5M'; allowed: %, us, ms, s"),
        ("latency<=5MS", "unknown unit 'MS'"),
        ("macs<=5ms", "unknown unit 'ms' in 'macs<=5ms'; allowed: %, K, M, G, or none"),
        ("latency<=0ms", "a latency must be finite and above 0; given 0 ms"),
        ("latency<=-1ms", "a latency must be finite and above 0; given -1 ms"),
        ("latency<=1e999s", "a latency must be finite"),
        ("latency<=101%", "above 0% and at most 100%; given 101%"),
        ("latency<5ms", "written with '<='"),
        ("latency<=5ms, latency<=3ms", "each of its own kind"),
        ("latency_ms<=5", "Did you mean 'latency'"),
        ("speed<=3ms", "unknown quantity of a budget 'speed'"),
        ("flops<=50%", "unknown quantity of a budget 'flops'; allowed: latency, macs, params"),
        ("param<=50%", "Did you mean 'params'"),
        ("macs<=50%, macs<=60%", "each of its own kind"),
    ],
)
def test_malformed_texts_are_refused_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Budget.of(text)
    assert said in str(caught.value)


def test_all_problems_of_a_text_are_named_at_once() -> None:
    with pytest.raises(InvalidSetting) as caught:
        Budget("macs<=0%, params<=2T, speed<=3")
    assert all(said in str(caught.value) for said in ("given 0%", "unit 'T'", "'speed'"))


def test_of_takes_texts_budgets_and_mappings() -> None:
    budget = Budget("macs<=50%", "params<=1.2M")
    assert Budget.of(budget) is budget
    assert Budget.of("macs<=50%, params<=1.2M") == budget
    assert Budget.of({"params": 1_200_000, "macs": "50%"}) == budget
    assert budget == Budget(Limit("params", 1.2e6, relative=False), Limit("macs", 0.5, relative=True))
    assert len({budget, Budget("params<=1200K, macs<=50.0%")}) == 1


@pytest.mark.parametrize("value", [0.5, None, ["macs<=50%"], {}, {"macs": 0.5}, {"macs": True}, {"speed": "50%"}])
def test_of_refuses_what_could_be_misread(value: Any) -> None:
    with pytest.raises(InvalidSetting):
        Budget.of(value)
    with pytest.raises(InvalidSetting):
        Budget()


def test_percentages_are_exact() -> None:
    assert 0.29 * 100 < 29
    assert Budget("params<=29%").met(Cost(0, 29), Cost(0, 100))
    assert not Budget("params<=29%").met(Cost(0, 30), Cost(0, 100))


@given(budgets, st.integers(0, 5 * 10**9), st.integers(0, 2000), st.floats(0, 1))
def test_met_and_slack_follow_their_definitions(budget: Budget, macs: int, params: int, ms: float) -> None:
    cost = Cost(float(macs), params, ms)
    slacks = []
    for limit in budget.limits:
        given_, dense = {
            "macs": (macs, DENSE.macs),
            "params": (params, DENSE.params),
            "latency": (ms, DENSE.latency_ms or 0),
        }[limit.quantity]
        cap = Fraction(limit.at_most) * Fraction(dense if limit.relative else 1)
        slacks.append(float((cap - Fraction(given_)) / Fraction(dense)))
    assert budget.slack(cost, DENSE) == pytest.approx(min(slacks), rel=1e-9, abs=1e-12)
    caps = budget.absolute(DENSE)
    assert budget.met(cost, DENSE) == (macs <= caps.macs and params <= caps.params and ms <= caps.latency_ms)


def test_a_limit_on_latency_needs_to_know_it() -> None:
    budget = Budget("latency<=3ms, macs<=50%")
    assert budget.quantities == {"latency", "macs"}
    for ask in (budget.met, budget.slack):
        with pytest.raises(InvalidSetting, match="needs a latency table"):
            ask(Cost(1e9, 10), Cost(4e9, 1000))


def test_a_limit_above_the_dense_cost_is_met_by_the_dense_network() -> None:
    assert Budget("macs<=5G").met(DENSE, DENSE)
    assert Budget("macs<=5G").absolute(DENSE) == Caps(macs=5e9, params=math.inf)
