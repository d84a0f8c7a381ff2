"""The output pixels of each example that a convolution is fitted on."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scionet.network.passes.moments import sample_positions, spread_numbers
from scionet.network.passes.suspended import Stop


def convolution(n_rows: int, height: int, width: int) -> Stop:
    """A convolution at which a pass waits."""
    args: tuple[Any, ...] = (
        torch.zeros(n_rows, 1, height, width),
        torch.zeros(1, 1, 1, 1),
        None,
        [1, 1],
        [0, 0],
        [1, 1],
    )
    return Stop("weight", "convolution", torch.ops.aten.convolution.default, (*args, False, [0, 0], 1))


def positions(numbers: Any, height: int, width: int, limit: int, key: int = 5) -> Tensor:
    numbers = np.asarray(numbers, dtype=np.int64)
    found = sample_positions(convolution(len(numbers), height, width), limit, numbers, key)
    assert found is not None
    return found


@given(
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    share=st.floats(0.05, 0.95),
    key=st.integers(0, 2**63 - 1),
    first=st.integers(0, 10**6),
)
def test_each_example_has_different_pixels_in_order(height, width, share, key, first) -> None:
    pixels = height * width
    limit = min(pixels - 1, max(1, round(share * pixels)))
    found = positions(first + np.arange(7), height, width, limit, key)
    assert found.shape == (7, limit)
    assert int(found.min()) >= 0
    assert int(found.max()) < pixels
    assert bool((found[:, 1:] > found[:, :-1]).all())


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6), key=st.integers(0, 2**63 - 1))
def test_pixels_do_not_depend_on_the_batch_or_on_other_examples(sizes, key) -> None:
    numbers = np.arange(100, 100 + sum(sizes))
    whole = positions(numbers, 6, 7, 9, key)
    parts = np.split(numbers, np.cumsum(sizes)[:-1])
    assert torch.equal(torch.cat([positions(part, 6, 7, 9, key) for part in parts]), whole)
    backwards = positions(numbers[::-1], 6, 7, 9, key)
    assert torch.equal(backwards.flip(0), whole)


@pytest.mark.parametrize(("height", "width", "limit"), [(8, 8, 16), (7, 7, 16), (5, 6, 3), (14, 14, 16), (3, 5, 14)])
@pytest.mark.parametrize("key", [1, 2**62 + 12345])
def test_every_pixel_is_taken_equally_often(height, width, limit, key) -> None:
    n_examples, share = 40_000, limit / (height * width)
    counts = torch.bincount(positions(np.arange(n_examples), height, width, limit, key).flatten())
    assert len(counts) == height * width
    deviation = (n_examples * share * (1 - share)) ** 0.5
    assert float((counts - n_examples * share).abs().max()) < 4.5 * deviation


def test_neighbouring_examples_and_other_keys_begin_at_unrelated_pixels() -> None:
    n_examples, pixels = 20_000, 36
    first = positions(np.arange(n_examples), 6, 6, 1, 3)[:, 0]
    other = positions(np.arange(n_examples), 6, 6, 1, 4)[:, 0]
    for one, two in ((first[1:], first[:-1]), (first, other)):
        pairs = torch.bincount(pixels * one + two, minlength=pixels**2).double()
        expected = len(one) / pixels**2
        assert float(((pairs - expected) ** 2 / expected).sum()) < pixels**2 - 1 + 4 * (2 * pixels**2) ** 0.5


def test_all_pixels_are_taken_where_there_are_no_more_and_at_other_operations() -> None:
    numbers = np.arange(4)
    assert sample_positions(convolution(4, 3, 3), 9, numbers, 0) is None
    assert sample_positions(convolution(4, 3, 3), 8, numbers, 0) is not None
    linear = Stop("weight", "mm", torch.ops.aten.mm.default, (torch.zeros(50, 3), torch.zeros(3, 2)))
    assert sample_positions(linear, 1, np.arange(50), 0) is None


def test_rows_of_one_example_have_numbers_of_their_own() -> None:
    assert spread_numbers(np.array([3, 5]), 2).tolist() == [3, 5]
    assert spread_numbers(np.array([3, 5]), 6).tolist() == [9, 10, 11, 15, 16, 17]
    found = positions(np.array([3, 5]), 6, 6, 4)
    stop = convolution(6, 6, 6)
    whole = sample_positions(stop, 4, np.array([3, 5]), 5)
    assert whole is not None
    assert whole.shape == (6, 4)
    assert found.shape == (2, 4)
    assert torch.equal(whole, positions(np.array([9, 10, 11, 15, 16, 17]), 6, 6, 4))
