"""What the messages about tensors that do not fit list."""

import pytest

from scionet.network.checkpoints.packing import abridged


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ("", ""),
        ("a", "a"),
        ("dcba", "a; b; c; d"),
        ("edcba", "a; b; c; d; and 1 more"),
        ("gfedcba", "a; b; c; d; and 3 more"),
    ],
)
def test_four_items_are_listed_and_the_others_counted(items: str, text: str) -> None:
    assert abridged(items) == text
