from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scionet.errors import TrainingError
from scionet.training.order import Order

ORDERS = st.builds(Order, st.integers(20, 60), st.integers(1, 20), st.integers(0, 2**32))


@given(order=ORDERS, number=st.integers(0, 1000))
def test_an_epoch_has_every_example_once(order: Order, number: int) -> None:
    assert sorted(order.epoch(number)) == list(range(order.examples))


@given(order=ORDERS)
def test_no_example_twice_in_an_epoch_and_other_orders_in_others(order: Order) -> None:
    per_epoch = order.steps_per_epoch
    batches = [[index for index, _ in batch] for batch in order.batches(0, 3 * per_epoch)]
    epochs = [list(chain(*batches[n * per_epoch : (n + 1) * per_epoch])) for n in range(3)]
    assert all(len(set(epoch)) == len(epoch) == per_epoch * order.batch_size for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@given(order=ORDERS, start=st.integers(0, 50), length=st.integers(0, 50))
def test_what_comes_later_does_not_depend_on_where_one_began(order: Order, start: int, length: int) -> None:
    whole = list(order.batches(0, start + length))
    assert list(order.batches(start, start + length)) == whole[start:]


@given(
    seed=st.integers(0, 2**32), start=st.integers(0, 9), size=st.sampled_from([1, 2, 3]), count=st.sampled_from([1, 2])
)
def test_the_parts_of_all_processes_are_the_batches(seed: int, start: int, size: int, count: int) -> None:
    order = Order(50, 12, seed)
    shares = [list(order.parts(start, 12, count, rank, size)) for rank in range(size)]
    for number, batch in enumerate(order.batches(start, 12)):
        parts = [part for share in shares for part in share[number * count : (number + 1) * count]]
        assert [len(part) for part in parts] == [12 // (count * size)] * (count * size)
        assert list(chain(*parts)) == batch


def test_examples_get_another_seed_in_every_epoch() -> None:
    order = Order(10, 10, 0)
    tickets = [ticket for batch in order.batches(0, 50) for ticket in batch]
    assert len({seed for _, seed in tickets}) == 500


def test_the_order_depends_on_the_seed() -> None:
    assert not np.array_equal(Order(100, 10, 0).epoch(0), Order(100, 10, 1).epoch(0))


def test_less_than_a_batch_is_refused() -> None:
    with pytest.raises(TrainingError, match="7 training examples do not fill a batch of 8"):
        Order(7, 8, 0)


def test_unequal_parts_are_refused() -> None:
    with pytest.raises(TrainingError, match="a multiple of 6"):
        next(Order(50, 16, 0).parts(0, 1, 3, 0, 2))
