"""Which examples are taken where not all are needed."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scionet.methods.calibration.subsets import subsets
from scionet.seeds import seeded

MODEL = nn.Linear(1, 1)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def numbered(sizes: list[int]) -> list[dict[str, torch.Tensor]]:
    """Batches whose examples are their own numbers, in order, as data sorted by class are."""
    return [{"x": part} for part in torch.arange(sum(sizes)).split(sizes)]


def examples(part) -> list[int]:
    return [number for batch in part for number in batch["x"].tolist()]


@given(sizes=SIZES, counts=st.lists(st.integers(1, 200), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_parts_are_disjoint_and_as_large_as_asked_for(sizes: list[int], counts: list[int], seed: int) -> None:
    parts = subsets(MODEL, numbered(sizes), counts, seeded(seed))
    left = sum(sizes)
    for part, count in zip(parts, counts, strict=True):
        assert part.count == len(examples(part)) == min(count, left)
        assert examples(part) == examples(part) == sorted(examples(part))
        left -= part.count
    together = [number for part in parts for number in examples(part)]
    assert len(set(together)) == len(together)


@given(sizes=SIZES, count=st.integers(1, 100), seed=st.integers(0, 9))
def test_every_batch_gives_its_share(sizes: list[int], count: int, seed: int) -> None:
    (part,) = subsets(MODEL, numbered(sizes), [count], seeded(seed))
    share = min(1.0, count / sum(sizes))
    for size, picked in zip(sizes, part.picks, strict=True):
        assert abs(len(picked) - size * share) <= 3


def test_examples_of_a_batch_are_drawn_and_not_its_first_ones() -> None:
    found = [examples(subsets(MODEL, numbered([50]), [10], seeded(seed))[0]) for seed in range(40)]
    assert {number for numbers in found for number in numbers} == set(range(50))


def test_batches_that_cannot_be_divided_are_taken_as_a_whole() -> None:
    batches = [{"x": part, "shared": torch.zeros(3)} for part in torch.arange(96).split(8)]
    first, second = subsets(MODEL, batches, [24, 48], seeded(0))
    assert [len(batch["x"]) for batch in first] == [8] * 3 and [len(batch["x"]) for batch in second] == [8] * 6
    assert not set(examples(first)) & set(examples(second))
    assert np.ptp([number // 8 for number in examples(first)]) >= 6
    (least,) = subsets(MODEL, batches, [1], seeded(0))
    assert [len(batch["x"]) for batch in least] == [8]


def test_whole_batches_are_handed_on_as_they_are() -> None:
    batches = numbered([4, 5])
    (part,) = subsets(MODEL, batches, [9], seeded(0))
    assert all(one is other for one, other in zip(part, batches, strict=True))
