"""Widths that the user gives: kept as they are, or refused with what is wrong."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_networks import residual

import scionet
from scionet import Limits, Widths, prune
from scionet.errors import CalibrationError, InvalidSetting

X = torch.zeros(2, 3, 8, 8)
FULL = {"stem": 6, "a1": 5, "a2": 7}


def images() -> list[torch.Tensor]:
    return [torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))]


@settings(max_examples=10)
@given(st.fixed_dictionaries({}, optional={name: st.integers(1, full) for name, full in FULL.items()}))
def test_every_site_keeps_what_is_given_and_others_stay_whole(units: dict[str, int]) -> None:
    torch.manual_seed(0)
    result = prune(residual(), example_inputs=X, method="l1", widths=Widths(units))
    assert {name: after for name, (_, after) in result.report.widths.items()} == {**FULL, **units}


@pytest.mark.parametrize("method", ["forward", "l1", "taylor"])
def test_the_plan_of_another_run_gives_its_widths(method: str) -> None:
    torch.manual_seed(0)
    model, labels = residual(), torch.zeros(8, dtype=torch.long)
    found = prune(model, images(), "macs<=60%", example_inputs=X)
    again = prune(
        model, [(images()[0], labels)], example_inputs=X, method=method, widths=Widths(found.plan.widths), repair=[]
    )
    assert again.plan.widths == found.plan.widths


def test_a_record_of_them_comes_back() -> None:
    torch.manual_seed(0)
    plan = prune(residual(), example_inputs=X, method="l1", widths=Widths({"a1": 2})).plan
    assert plan.settings["widths"] == {"name": "widths", "units": {"a1": 2}}
    assert scionet.choices.settings.widths_from(plan.settings["widths"]) == Widths({"a1": 2})
    assert scionet.choices.settings.widths_from({"name": "widths", "units": {"name": 3}}) == Widths({"name": 3})


@pytest.mark.parametrize(
    ("units", "limits", "message"),
    [
        ({"a3": 2}, Limits(), "unknown site 'a3'; allowed: a1, a2, stem. Did you mean 'a2' or 'a1'?"),
        ({"a1": 6}, Limits(), "site 'a1' has 5 units and cannot keep 6; give 1 to 5"),
        ({"a1": 3}, Limits(round_to=2), "site 'a1' would keep 3 units, against the limits round_to=2 and min_units=1"),
        ({"a2": 1}, Limits(min_units=2), "site 'a2' would keep 1 units, against the limits round_to=1 and min_units=2"),
    ],
)
def test_what_the_network_does_not_have_is_refused_before_data_are_read(
    units: dict[str, int], limits: Limits, message: str
) -> None:
    def unread() -> Iterator[torch.Tensor]:
        raise AssertionError("the data were read")
        yield

    with pytest.raises(InvalidSetting) as caught:
        prune(residual(), unread(), example_inputs=X, widths=Widths(units), limits=limits)
    assert message in str(caught.value)


def test_full_widths_are_never_against_the_limits() -> None:
    prune(residual(), example_inputs=X, method="l1", widths=Widths(FULL), limits=Limits(round_to=4, min_units=6))


@pytest.mark.parametrize("units", [{"a1": 0}, {"a1": 2.5}, {"a1": True}, {3: 3}, [3], "a1", None])
def test_what_is_no_mapping_to_counts_is_refused(units: object) -> None:
    with pytest.raises(InvalidSetting, match="must be a mapping from texts to an int of 1 or more"):
        Widths(units)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "more", [{"budget": "macs<=50%"}, {"method": scionet.Forward(scionet.TaskLoss(tolerance=0.1))}]
)
def test_they_replace_a_budget(more: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting, match="give one of three: a budget"):
        prune(residual(), images(), example_inputs=X, widths=Widths({"a1": 2}), **more)
    with pytest.raises((InvalidSetting, CalibrationError)):
        prune(residual(), images(), example_inputs=X)


def test_a_choice_of_widths_is_a_value() -> None:
    units = {"a1": 2, "a2": 3}
    choice = Widths(units)
    units["a1"] = 4
    assert choice == Widths({"a2": 3, "a1": 2})
    assert hash(choice) == hash(Widths({"a2": 3, "a1": 2}))
    with pytest.raises(TypeError, match="cannot be changed"):
        choice.units["a1"] = 1  # type: ignore[index]
