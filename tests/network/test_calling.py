"""Batches of one form are mixed, and no others, wherever batches are regrouped."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scionet.methods.calibration.calibration import CalibrationBatch, regrouped
from scionet.methods.calibration.regrouping import shuffled
from scionet.methods.greedy.gated_network import grouped_by_form
from scionet.network.calling import Batch, as_arguments, concatenated, form_of, joined


def by_calibration(batches: Sequence[Batch]) -> list[Any]:
    numbered = [CalibrationBatch(batch, None, np.arange(len(first(batch)))) for batch in batches]
    return [found.inputs for found in regrouped(numbered, 3)]


REGROUPINGS: dict[str, Callable[[Sequence[Batch]], list[Any]]] = {
    "joined": joined,
    "calibration": by_calibration,
    "shuffled": lambda batches: shuffled(batches, np.random.default_rng(0)),
    "gated": lambda batches: [batch for batch, _ in grouped_by_form(batches)],
}
KINDS = (
    lambda x: x,
    lambda x: (x,),
    lambda x: (x, 1),
    lambda x: (x, True),
    lambda x: {"x": x},
    lambda x: {"x": x, "pad": None},
    lambda x: (x.double(),),
    lambda x: (x.int(),),
    lambda x: (x[:, :1],),
    lambda x: (x, x),
)


def first(batch: Batch) -> Tensor:
    args, kwargs = as_arguments(batch)
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def examples(batches: Sequence[Batch]) -> list[tuple[str, float]]:
    """The form of every example, and its number."""
    return sorted((str(form_of(batch)), float(row[0])) for batch in batches for row in first(batch))


@pytest.mark.parametrize("name", REGROUPINGS)
@given(kinds=st.lists(st.tuples(st.integers(0, len(KINDS) - 1), st.integers(1, 4)), min_size=1, max_size=6))
def test_every_example_keeps_its_form(name: str, kinds: list[tuple[int, int]]) -> None:
    ends = np.cumsum([size for _, size in kinds])
    batches: list[Any] = []
    for (kind, size), end in zip(kinds, ends, strict=True):
        numbers = torch.arange(end - size, end, dtype=torch.float32)
        batches.append(KINDS[kind](numbers[:, None].repeat(1, 2)))
    assert examples(REGROUPINGS[name](batches)) == examples(batches)


def test_one_batch_of_several() -> None:
    one, two = {"x": torch.zeros(2, 3), "pad": "a"}, {"x": torch.ones(1, 3), "pad": "a"}
    assert form_of(one) == form_of(two) != form_of({**one, "pad": "b"})
    found = concatenated([one, two])
    assert (found["pad"], found["x"][:, 0].tolist()) == ("a", [0, 0, 1])
    assert concatenated([one]) is one
