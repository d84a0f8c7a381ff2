import random

import numpy as np
import pytest
import torch
from support.pupils import Noisy, examples
from torch.utils.data import Dataset

from scionet.errors import CalibrationError, TrainingError
from scionet.training.loading import load, pairs
from scionet.training.order import Order

TICKETS = list(Order(40, 8, 0).batches(0, 7))


class Listed(Dataset):
    """Whatever is listed; what is an exception is raised."""

    def __init__(self, *listed: object) -> None:
        self.listed = listed

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, index: int) -> object:
        if isinstance(self.listed[index], Exception):
            raise self.listed[index]  # type: ignore[misc]
        return self.listed[index]


class Random(Dataset):
    """Examples of random numbers of all kinds."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))]), index  # noqa: NPY002


def test_batches_hold_the_examples_of_their_tickets() -> None:
    data = examples(40)
    for (inputs, labels), tickets in zip(load(data, TICKETS, pairs), TICKETS, strict=True):
        indices = [index for index, _ in tickets]
        assert torch.equal(torch.as_tensor(inputs), data.tensors[0][indices])
        assert torch.equal(labels, data.tensors[1][indices])


@pytest.mark.parametrize("kind", [Random(), Noisy(40)], ids=["numbers", "noise"])
def test_workers_read_the_same(kind: Dataset) -> None:
    found = [[torch.as_tensor(inputs) for inputs, _ in load(kind, TICKETS, pairs, workers)] for workers in (0, 2)]  # type: ignore[arg-type]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_what_is_random_depends_on_the_ticket_alone() -> None:
    def rows(tickets: list) -> dict[int, torch.Tensor]:
        batches = load(Random(), tickets, pairs)
        return {
            int(n): row for inputs, labels in batches for row, n in zip(torch.as_tensor(inputs), labels, strict=True)
        }

    whole, again = rows(TICKETS[:5]), rows(TICKETS[2:3])
    alone = rows([[ticket] for ticket in TICKETS[2]])
    assert len(alone) == len(again) == 8
    assert all(torch.equal(row[2], whole[label][2]) for label, row in alone.items())  # torch: of the example
    assert all(torch.equal(row, whole[label]) for label, row in again.items())  # Python, NumPy: of the batch
    assert len({tuple(row.tolist()) for row in whole.values()}) == 40


def test_inputs_may_be_dicts() -> None:
    data = Listed(({"a": torch.ones(2), "b": torch.zeros(1)}, 3), ({"a": torch.ones(2), "b": torch.ones(1)}, 1))
    (inputs, labels) = next(load(data, [[(0, 0), (1, 0)]], pairs))
    assert isinstance(inputs, dict)
    assert inputs["a"].shape == (2, 2)
    assert labels.tolist() == [3, 1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (OSError("lost"), "example 1 of the data cannot be read: OSError: lost"),
        (CalibrationError("cannot use the picture a/b.jpg"), r"^cannot use the picture a/b\.jpg\n"),
        (torch.zeros(3), "must be a pair of input and label; given a "),
        ((torch.zeros(4), 0), "examples do not make a batch: .*; give tensors of equal shapes"),
        ((torch.zeros(3), 0.5), "a label must be a whole number"),
        ((torch.zeros(3), torch.zeros(5)), "a label must be a whole number|do not make a batch"),
    ],
    ids=["error", "own error", "no pair", "shapes", "fraction", "vector"],
)
def test_what_cannot_be_read_is_explained(bad: object, message: str, workers: int) -> None:
    data = Listed((torch.zeros(3), 0), bad)
    with pytest.raises(TrainingError, match=message) as caught:
        list(load(data, [[(0, 0), (1, 0)]], pairs, workers))  # type: ignore[arg-type]
    assert "Traceback" in "".join(caught.value.__notes__)
