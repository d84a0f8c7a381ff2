"""Counts, ties, schedules and patterns, against slow and obvious versions."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scionet.errors import InvalidSetting
from scionet.masks.keeping import (
    apportion_with_floors,
    keep_global,
    keep_groups,
    keep_largest,
    keep_pattern,
    rounded_count,
)
from scionet.masks.schedule import Schedule

few = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def ranked(values: list[int], candidates: list[bool], n_kept: int) -> list[bool]:
    order = sorted((i for i in range(len(values)) if candidates[i]), key=lambda i: (-values[i], i))
    return [i in order[:n_kept] for i in range(len(values))]


@given(few, st.data())
def test_largest_is_sorting_by_score_and_index(values, data) -> None:
    candidates = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    n_kept = data.draw(st.integers(0, sum(candidates)))
    found = keep_largest(torch.tensor(values, dtype=torch.float64), torch.tensor(candidates), n_kept)
    assert found.tolist() == ranked(values, candidates, n_kept)


@pytest.mark.parametrize(("density", "total", "kept"), [(0.7, 10, 7), (0.5, 5, 3), (0.1, 4, 0), (1.0, 9, 9)])
def test_rounded_count_rounds_halves_up(density, total, kept) -> None:
    assert rounded_count(density, total) == kept


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=6), st.data())
def test_apportioned_counts_add_up_and_respect_floors_and_capacities(layers, data) -> None:
    sizes = [size for size, _ in layers]
    floors = [min(size, floor) for size, floor in layers]
    total = data.draw(st.integers(sum(floors), sum(sizes)))
    found = apportion_with_floors(floors, sizes, sizes, total)
    assert sum(found) == total
    assert all(low <= n <= size for low, n, size in zip(floors, found, sizes, strict=True))
    if not any(floors):
        assert all(abs(n - total * size / sum(sizes)) < 1 for n, size in zip(found, sizes, strict=True))


def test_largest_remainders_round_up_first_and_ties_go_to_the_first() -> None:
    assert apportion_with_floors([0, 0, 0], [9, 9, 9], [4, 3, 3], 5) == [2, 2, 1]  # ideals 2, 1.5, 1.5


@given(few, few, st.integers(0, 2), st.data())
def test_global_keeps_the_best_and_the_minimum_of_each_layer(first, second, minimum, data) -> None:
    scores = {"a": torch.tensor(first).double(), "b": torch.tensor(second).double()}
    everything = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    least = {name: min(minimum, len(score)) for name, score in scores.items()}
    n_kept = data.draw(st.integers(sum(least.values()), len(first) + len(second)))
    found = keep_global(scores, everything, n_kept, minimum)
    local = keep_groups(scores, everything, n_kept, [["a"], ["b"]], minimum)
    for masks in (found, local):
        assert sum(int(mask.sum()) for mask in masks.values()) == n_kept
        assert all(int(masks[name].sum()) >= least[name] for name in scores)
    best = max(
        float(scores["a"].sort(descending=True).values[:i].sum())
        + float(scores["b"].sort(descending=True).values[: n_kept - i].sum())
        for i in range(least["a"], len(first) + 1)
        if least["b"] <= n_kept - i <= len(second)
    )
    assert sum(float(scores[name][found[name]].sum()) for name in scores) == best


@given(few, few, st.data())
def test_masks_are_nested(first, second, data) -> None:
    scores = {"a": torch.tensor(first).double(), "b": torch.tensor(second).double()}
    masks = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    n_kept = len(first) + len(second)
    groups = data.draw(st.sampled_from([[["a", "b"]], [["b"], ["a"]]]))
    while n_kept > 1:
        n_kept = data.draw(st.integers(1, n_kept - 1))
        smaller = keep_groups(scores, masks, n_kept, groups)
        assert all(bool((masks[name] | ~smaller[name]).all()) for name in scores)
        masks = smaller


@given(few, few, few, st.integers(0, 2), st.data())
def test_groups_share_by_largest_remainders_and_compete_within(first, second, third, minimum, data) -> None:
    """Against sorting each group by itself."""
    scores = {name: torch.tensor(v).double() for name, v in (("a", first), ("b", second), ("c", third))}
    everything = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    total = sum(map(len, scores.values()))
    least = sum(min(minimum, len(score)) for score in scores.values())
    n_kept = data.draw(st.integers(least, total))
    found = keep_groups(scores, everything, n_kept, [["c", "a"], ["b"]], minimum)
    assert list(found) == ["a", "b", "c"]
    assert sum(int(mask.sum()) for mask in found.values()) == n_kept
    assert all(int(mask.sum()) >= min(minimum, len(mask)) for mask in found.values())
    if not minimum:
        ideal = n_kept * len(second) / total
        assert abs(int(found["b"].sum()) - ideal) < 1
        order = sorted((-value, *place) for name in "ca" for place, value in _numbered(name, scores[name]))
        kept = order[: n_kept - int(found["b"].sum())]
        assert {(n, i) for n in "ac" for i in found[n].nonzero()[:, 0].tolist()} == {("ca"[n], i) for _, n, i in kept}


def _numbered(name: str, score: torch.Tensor) -> list[tuple[tuple[int, int], float]]:
    return [(("ca".index(name), i), value) for i, value in enumerate(score.tolist())]


def test_a_pattern_keeps_n_of_every_m_inputs() -> None:
    scores = torch.tensor([[3.0, 1, 2, 2], [0, 0, 0, 0]])
    assert keep_pattern(scores, 2, 4).tolist() == [[True, False, True, False], [True, True, False, False]]
    kernel = torch.rand(3, 8, 3, 2, generator=torch.Generator().manual_seed(0))
    found = keep_pattern(kernel, 1, 4)
    for out, row, column, start in itertools.product(range(3), range(3), range(2), (0, 4)):
        group = slice(start, start + 4)
        assert int(found[out, group, row, column].sum()) == 1
        assert int(found[out, group, row, column].int().argmax()) == int(kernel[out, group, row, column].argmax())


@given(st.floats(1e-6, 1), st.integers(1, 40), st.sampled_from(["exponential", "polynomial", "telescoping"]))
def test_schedules_fall_to_the_target(target, n_rounds, shape) -> None:
    found = Schedule(n_rounds, shape).densities(target)
    assert len(found) == n_rounds
    assert found[-1] == target
    assert all(1 >= a >= b for a, b in itertools.pairwise(found))
    assert found[0] < 1 or target > 1 - 1e-6


def test_schedules_are_those_of_the_papers() -> None:
    exponential, linear = Schedule(4).densities(1e-4), Schedule(4, "polynomial", power=1).densities(0.2)
    assert exponential == pytest.approx([0.1, 0.01, 0.001, 1e-4])
    assert linear == pytest.approx([0.8, 0.6, 0.4, 0.2])
    telescoping = Schedule(25, "telescoping").densities(0.25)
    assert [telescoping[k - 1] for k in (1, 2, 5, 10, 25)] == pytest.approx(
        [0.8929, 0.8065, 0.625, 0.4545, 0.25], abs=5e-5
    )
    cuts = [1 - b / a for a, b in itertools.pairwise((1.0, *Schedule(5, "telescoping").densities(0.25)))]
    assert cuts == pytest.approx([0.375, 0.2727, 0.2143, 0.1765, 0.15], abs=5e-5)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"rounds": 2.5}, {"shape": "cosine"}, {"power": 0}])
def test_wrong_schedules_are_refused(wrong) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        Schedule(**wrong)
