"""Plans: valid ones, their JSON and repr, and when two plans are equal."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scionet.errors import InvalidSetting
from scionet.network.plan import Choice, Plan

WEIGHTS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def choices(draw: st.DrawFn, site: str) -> Choice:
    width = draw(st.integers(1, 12))
    kept = tuple(sorted(draw(st.sets(st.integers(0, width - 1), min_size=1))))
    weights = tuple(draw(st.lists(WEIGHTS, min_size=len(kept), max_size=len(kept))))
    order = tuple(draw(st.lists(st.integers(0, width - 1), max_size=5)))
    values = tuple(draw(st.lists(WEIGHTS, max_size=5)))
    return Choice(site, width, kept, weights, order, values, draw(st.text(max_size=5)))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = draw(st.lists(st.text(max_size=6), max_size=3, unique=True))
    return Plan(
        choices=tuple(draw(choices(name)) for name in names),
        method=draw(st.text(max_size=6)),
        settings=draw(
            st.dictionaries(
                st.text(max_size=4), st.integers(-(2**64) + 1, 2**64 - 1) | st.text(max_size=4) | st.none(), max_size=3
            )
        ),
        seed=draw(st.integers(0, 2**63)),
        dense_hash=draw(st.text(max_size=8)),
        status=draw(st.text(max_size=8)),
    )


EXAMPLE = Plan(
    (Choice("a", 4, (0, 2), (1.0, 0.5), (2, 0, 1), (-3.0, -2.0, -1.0), "full"), Choice("b", 3, (1,), (1.0,))),
    {"a.bias": torch.arange(4.0)},
    "forward",
    {"ridge": 0.1},
    7,
    "abc",
    "2 sites",
)


@given(plans())
def test_json_and_back(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again.choices == plan.choices
    assert (again.method, again.settings, again.seed) == (plan.method, plan.settings, plan.seed)
    assert (again.dense_hash, again.status) == (plan.dense_hash, plan.status)
    assert again.to_json() == plan.to_json()
    assert again.identity == plan.identity


def test_tensors_come_beside_the_json() -> None:
    assert "bias" not in EXAMPLE.to_json()
    again = Plan.from_json(EXAMPLE.to_json(), EXAMPLE.tensors)
    assert torch.equal(again.tensors["a.bias"], torch.arange(4.0))
    assert again.identity == EXAMPLE.identity


@pytest.mark.parametrize(
    "change",
    [
        {"choices": EXAMPLE.choices[:1]},
        {"choices": (replace(EXAMPLE.choices[0], weights=(1.0, 0.6)), EXAMPLE.choices[1])},
        {"choices": (replace(EXAMPLE.choices[0], order=(2, 0)), EXAMPLE.choices[1])},
        {"tensors": {"a.bias": torch.arange(4.0) + 1}},
        {"tensors": {"b.bias": torch.arange(4.0)}},
        {"tensors": {"a.bias": torch.arange(4.0).view(2, 2)}},
        {"tensors": {"a.bias": torch.arange(4.0, dtype=torch.float64)}},
        {"method": "random"},
        {"settings": {"ridge": 0.2}},
        {"seed": 8},
        {"dense_hash": "abd"},
        {"status": ""},
    ],
)
def test_identity_depends_on_everything(change: dict[str, Any]) -> None:
    assert replace(EXAMPLE, **change).identity != EXAMPLE.identity


def test_identity_does_not_depend_on_the_order_of_settings() -> None:
    one, other = replace(EXAMPLE, settings={"a": 1, "b": 2}), replace(EXAMPLE, settings={"b": 2, "a": 1})
    assert one.identity == other.identity


def test_views() -> None:
    assert EXAMPLE.kept == {"a": (0, 2), "b": (1,)}
    assert EXAMPLE.widths == {"a": 2, "b": 1}
    assert [choice.density for choice in EXAMPLE.choices] == [0.5, 1 / 3]


@pytest.mark.parametrize("kept", [(), (2, 1), (1, 1), (-1, 2), (0, 4)])
def test_kept_units_are_an_ascending_subset(kept: tuple[int, ...]) -> None:
    with pytest.raises(InvalidSetting, match=r"site 'a': kept units must be .* non-empty subset of 0\.\.3; given \("):
        Choice("a", 4, kept, (1.0,) * len(kept))


def test_one_weight_for_each_kept_unit() -> None:
    with pytest.raises(InvalidSetting, match="site 'a': 1 weights for 2 kept units"):
        Choice("a", 4, (0, 1), (1.0,))


def test_plans_and_choices_are_one_line_without_indices() -> None:
    assert repr(EXAMPLE).startswith("Plan(")
    assert repr(
        Plan((Choice("a", 4, (0, 2), (1.0, 1.0)), Choice("b", 1000, (1,), (1.0,))), method="forward", seed=3)
    ) == ("Plan(forward, 2 sites, 3 of 1,004 units kept, seed 3)")
    tensors = {"a.bias": torch.zeros(4)}
    assert repr(Plan((), tensors)) == "Plan(0 sites, 0 of 0 units kept, 1 replacement tensor, seed 0)"
    assert repr(Choice("a", 1000, (0, 2), (1.0, 1.0), order=tuple(range(1000)))) == "Choice('a', 2 of 1,000 units kept)"


def test_one_choice_for_each_site() -> None:
    choice = Choice("a", 4, (0,), (1.0,))
    with pytest.raises(InvalidSetting, match="one choice per site"):
        Plan((choice, choice))


def damaged(**changes: Any) -> str:
    return json.dumps({**json.loads(EXAMPLE.to_json()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[]",
        "{}",
        EXAMPLE.to_json()[:-5],
        damaged(choices=3),
        damaged(choices=[3]),
        damaged(choices=[{"site": "a"}]),
        damaged(choices=[{"site": "a", "width": "4", "kept": [0], "weights": [1.0]}]),
        damaged(choices=[{"site": "a", "width": 4, "kept": [9], "weights": [1.0]}]),
        damaged(choices=[{"site": "a", "width": 4, "kept": "ab", "weights": [1.0]}]),
        damaged(surprise=1),
    ],
)
def test_texts_that_are_no_plans(text: str) -> None:
    with pytest.raises(InvalidSetting):
        Plan.from_json(text)


def test_units_are_made_plain_integers_and_others_are_refused() -> None:
    choice = Choice("a", 4, tuple(np.array([0, 2])), (1.0, 1.0), order=tuple(np.array([2, 0])))
    assert Plan.from_json(Plan((choice,)).to_json()).choices == (Choice("a", 4, (0, 2), (1.0, 1.0), (2, 0)),)
    with pytest.raises(InvalidSetting, match=r"plan\.choices\[0\]\.kept\[0\] must be of type int; given 0\.0"):
        Plan.from_json(Plan((choice,)).to_json().replace("[0,2]", "[0.0,2.0]"))


def test_dropped_branches_go_to_json_and_back() -> None:
    constants = {"a": torch.arange(3.0), "b": torch.ones(2)}
    plan = replace(EXAMPLE, dropped={**constants, "c": None})
    again = Plan.from_json(plan.to_json(), plan.tensors, constants)
    assert list(again.dropped) == ["a", "b", "c"]
    assert again.dropped["c"] is None
    assert again.identity == plan.identity
    without = Plan.from_json(plan.to_json())
    assert [None if c is None else c.tolist() for c in without.dropped.values()] == [[0.0] * 3, [0.0] * 2, None]
    assert repr(plan) == "Plan(forward, 2 sites, 3 of 7 units kept, 3 dropped, 1 replacement tensor, seed 7)"


def test_other_constants_make_another_plan() -> None:
    plans = [replace(EXAMPLE, dropped={"a": c}) for c in (torch.zeros(3), torch.ones(3), torch.zeros(4), None)]
    assert len({plan.identity for plan in (*plans, EXAMPLE)}) == 5


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"a": torch.ones(4)}, "the constant of branch 'a' must have 3 entries"),
        ({"d": torch.ones(3)}, "unknown dropped branch with a constant 'd'"),
        ({"c": torch.ones(3)}, "unknown dropped branch with a constant 'c'"),
    ],
)
def test_constants_that_do_not_fit(constants: dict[str, Any], message: str) -> None:
    text = replace(EXAMPLE, dropped={"a": torch.ones(3), "c": None}).to_json()
    with pytest.raises(InvalidSetting, match=message):
        Plan.from_json(text, constants=constants)


def test_constants_of_a_plan_in_json_are_of_bounded_size() -> None:
    text = (
        replace(EXAMPLE, dropped={"a": torch.ones(3)}).to_json().replace('"dropped":{"a":3}', '"dropped":{"a":2000000}')
    )
    with pytest.raises(InvalidSetting, match="must have 1 to 1,048,576 entries; given 2000000"):
        Plan.from_json(text)
