"""Latency at any widths: against a slow reading of the table, differences, and what `rising` promises."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from support.clocks import handmade, slow_ms
from support.handmade_sites import chain, mixed

from scionet.budget.costs import CostModel
from scionet.budget.latency.surfaces import Surfaces, rising
from scionet.network.sites import Sites

SITES = {
    "chain": chain([4, 6, 5]).sites,
    "flattened": chain([4, 6, 5], flatten=True).sites,
    "mixed": mixed().sites,
}


@settings(max_examples=50)
@given(st.sampled_from(sorted(SITES)), st.integers(0, 9), st.data())
def test_any_widths_take_what_a_slow_reading_of_the_table_says(name: str, seed: int, data: Any) -> None:
    sites, constant_ms = SITES[name], 2.0
    table = handmade(sites, seed, constant_ms=constant_ms)
    widths = {n: data.draw(st.integers(0, s.width)) for n, s in sites.items()}
    found = CostModel(sites, table).cost(widths).latency_ms
    assert found == pytest.approx(constant_ms + slow_ms(table.operations, dict(table.sites), widths), rel=1e-4)


@settings(max_examples=30)
@given(st.sampled_from(sorted(SITES)), st.integers(0, 9))
def test_more_units_take_more_time(name: str, seed: int) -> None:
    rng, model = np.random.default_rng(seed), CostModel(SITES[name], handmade(SITES[name], seed))
    kept = rng.integers(1, model.full + 1)
    for site in np.flatnonzero(kept < model.full):
        more = kept + (np.arange(len(kept)) == site)
        assert model.evaluate(more)[2] > model.evaluate(kept)[2]


@pytest.mark.parametrize("name", SITES)
def test_shifts_and_interactions_are_differences(name: str) -> None:
    model = CostModel(SITES[name], handmade(SITES[name], 0))
    rng = np.random.default_rng(0)
    kept = rng.integers(1, model.full + 1)
    site = np.repeat(np.arange(len(kept)), 2)
    step = rng.integers(-kept[site], model.full[site] - kept[site] + 1)
    moved = kept + step[:, None] * (site[:, None] == np.arange(len(kept)))
    expected = np.stack([model.evaluate(w) - model.evaluate(kept) for w in moved], axis=1)
    np.testing.assert_allclose(model.shifts(kept, site, step), expected, atol=1e-9)
    mixed_terms = model.interactions(kept, site, step, site, step)
    for a, b in product(range(len(site)), repeat=2):
        if site[a] != site[b]:
            both = model.evaluate(moved[a] + moved[b] - kept) - model.evaluate(kept)
            np.testing.assert_allclose(mixed_terms[:, a, b], both - expected[:, a] - expected[:, b], atol=1e-9)


def test_without_sites_and_operations_nothing_takes_time() -> None:
    empty = Surfaces.build([], {})
    nothing = np.zeros(0, dtype=np.int64)
    assert empty.evaluate(nothing) == [0]
    assert empty.shifts(nothing, nothing, nothing).shape == (1, 0)
    assert CostModel(Sites({}, {}, (), {}, ())).dense.latency_ms is None


tables = arrays(np.float64, array_shapes(min_dims=1, max_dims=2, max_side=6), elements=st.floats(1e-3, 1e3))


@given(tables)
def test_rising_tables_rise_and_stay_near(ms: np.ndarray) -> None:
    found = rising(ms)
    for axis in range(ms.ndim):
        assert (np.diff(found, axis=axis) > 0).all()
    assert ms.min() <= found.min()
    assert found.max() <= ms.max() * (1 + 1e-5)
    above, below = found.copy(), found.copy()
    for index in np.ndindex(*ms.shape):
        above[index] = ms[tuple(slice(n + 1) for n in index)].max()
        below[index] = ms[tuple(slice(n, None) for n in index)].min()
    np.testing.assert_allclose(found, (above + below) / 2, atol=1e-5 * ms.max())


@given(tables)
def test_a_table_that_rises_already_is_left_alone(ms: np.ndarray) -> None:
    already = np.sort(np.sort(ms, axis=0), axis=-1)
    np.testing.assert_allclose(rising(already), already, atol=1e-5 * ms.max())
