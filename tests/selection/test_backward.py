"""Backward elimination by its definition: remove each unit in turn, refit, compare."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.selection_problems import Layer, layer

from scionet.errors import CalibrationError, InvalidSetting
from scionet.selection import backward
from scionet.selection.backward import backward_elimination
from scionet.selection.greedy import replay
from scionet.selection.quadratic import LeastSquaresObjective

RIDGE = 1e-6


def eliminated(layers: list[Layer], ridge: float) -> list[int]:
    """Units in the order of their removal, by refitting every set."""
    left, removed = list(range(len(layers[0].columns))), []
    while left:
        errors = [sum(item.refit_error([u for u in left if u != unit], ridge) for item in layers) for unit in left]
        removed.append(left.pop(int(np.argmin(errors))))
    return removed


@given(
    st.integers(0, 50),
    st.integers(1, 3),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 6),
)
def test_each_removal_raises_the_refitted_error_least(seed, width, n_fixed, asymmetric, n_units) -> None:
    items = [
        layer(seed + n, width=width, n_fixed=n_fixed, asymmetric=asymmetric, rows=80, outputs=2 + n) for n in range(2)
    ]
    found = backward_elimination([item.term for item in items], n_units, RIDGE)
    removed = eliminated(items, RIDGE)
    assert list(found.order) == removed[::-1][:n_units]
    assert found.kept == tuple(sorted(found.order))
    expected = [-sum(i.refit_error(found.order[: k + 1], RIDGE) for i in items) for k in range(n_units)]
    np.testing.assert_allclose(found.values, expected, rtol=1e-7, atol=1e-9)


def test_values_are_those_of_the_objective_on_the_same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inverse is refreshed now and then; both ways give the same units."""
    term = layer(3, size=60, width=2, outputs=12, rows=800, n_fixed=2).term
    found = backward_elimination([term], 60, RIDGE)
    again = replay(LeastSquaresObjective([term], RIDGE), found.order)
    np.testing.assert_allclose(found.values, again.values, rtol=1e-6, atol=1e-9)
    monkeypatch.setattr(backward, "REFRESH", 1)
    assert backward_elimination([term], 60, RIDGE).order == found.order


def test_smaller_selections_are_prefixes_and_errors_fall() -> None:
    term = layer(1, size=20, rows=200).term
    whole = backward_elimination([term], 20)
    assert np.all(np.diff(whole.values) >= -1e-12)
    for n_units in range(21):
        found = backward_elimination([term], n_units)
        assert (found.order, found.values) == (whole.order[:n_units], whole.values[:n_units])


def test_copies_of_a_unit_cost_nothing() -> None:
    item = layer(2, size=5, rows=60)
    twice = Layer(
        np.hstack([item.x, item.x]),
        np.hstack([item.weight, item.weight]),
        item.target,
        np.vstack([item.columns, item.columns + 5]),
        item.fixed,
    )
    found = backward_elimination([twice.term], 5, 1e-9)
    assert {unit % 5 for unit in found.kept} == set(range(5))
    assert found.values[-1] == pytest.approx(0, abs=1e-6)
    with pytest.raises(CalibrationError, match="ridge above 0"):
        backward_elimination([twice.term], 5, 0.0)


@pytest.mark.parametrize("n_units", [-1, 7])
def test_numbers_out_of_range_are_refused(n_units) -> None:
    with pytest.raises(InvalidSetting, match="from 0 to 6"):
        backward_elimination([layer(0).term], n_units)
