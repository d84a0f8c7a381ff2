"""The caller's data: read once, regrouped, and divided by the number of each example."""

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.subjects import SUBJECTS
from torch import Tensor, nn

from scionet import prune
from scionet.choices.repair import Reconstruct, Refit
from scionet.choices.resources import Resources
from scionet.choices.widths import Sensitivity
from scionet.errors import CalibrationError
from scionet.methods.calibration import calibration as module
from scionet.methods.calibration.calibration import ALL, HELD_OUT, Calibration, read
from scionet.methods.calibration.storage import Storage
from scionet.network.network import Network
from scionet.seeds import seeded


class Dicts(nn.Module):
    def forward(self, x: Tensor, shared: Tensor) -> Tensor:
        return x + shared.sum()


def network(model: nn.Module) -> Network:
    return Network(model)


CPU = torch.device("cpu")
SIZES = st.lists(st.integers(1, 90), min_size=1, max_size=12)
PLAIN: dict[str, Any] = {"labels": False, "batch_size": 64, "memory_bytes": np.inf}


def numbered(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of inputs, which are the examples' own numbers in order, as data sorted by class are, and labels."""
    return [(part[:, None], 1000 + part) for part in torch.arange(sum(sizes)).split(sizes)]


def calibration(data: Any, batch_size: int = 64, labels: bool = True, memory_bytes: float = np.inf) -> Calibration:
    example = torch.zeros(2, 1, dtype=torch.int64)
    options: dict[str, Any] = {"labels": labels, "batch_size": batch_size, "memory_bytes": memory_bytes}
    return read(network(nn.Identity()), data, example, **options)


def examples(part: Calibration) -> list[int]:
    """The numbers that the examples of a part are."""
    inputs: list[Any] = part.inputs
    return [number for batch in inputs for number in batch[:, 0].tolist()]


def same(one: Calibration, other: Calibration) -> bool:
    """Whether the batches are the same, with their labels and numbers."""
    if len(one.batches) != len(other.batches):
        return False
    pairs: list[tuple[Any, Any]] = [*zip(one.batches, other.batches, strict=True)]
    return all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels) and np.array_equal(a.numbers, b.numbers)
        for a, b in pairs
    )


@given(sizes=SIZES, other=st.integers(1, 200), batch_size=st.integers(1, 100), seed=st.integers(0, 9))
def test_the_same_examples_in_other_batches_give_the_same_calibration(sizes, other, batch_size, seed) -> None:
    total = sum(sizes)
    ours = calibration(numbered(sizes), batch_size)
    theirs = calibration([*zip(*(part.split(other) for part in numbered([total])[0]), strict=True)], batch_size)
    assert same(ours, theirs)
    assert [len(batch.numbers) for batch in ours.batches[:-1]] == [batch_size] * (len(ours.batches) - 1)
    assert examples(ours) == [*range(total)]
    parts = [whole.parts((total // 4, total // 3, ALL), seeded(seed), CPU) for whole in (ours, theirs)]
    assert all(map(same, *parts))
    held = [whole.held_out(seeded(seed), CPU) for whole in (ours, theirs)]
    assert all(map(np.array_equal, *held))


@given(sizes=SIZES, counts=st.lists(st.integers(1, 200), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_parts_are_disjoint_and_as_large_as_asked_for(sizes, counts, seed) -> None:
    parts = calibration(numbered(sizes)).parts(counts, seeded(seed), CPU)
    left = sum(sizes)
    for part, count in zip(parts, counts, strict=True):
        assert part.count == part.total(CPU) == len(examples(part)) == min(count, left)
        assert examples(part) == sorted(examples(part))
        left -= part.count
    together = [number for part in parts for number in examples(part)]
    assert len(set(together)) == len(together)


@given(sizes=SIZES, share=st.floats(0.02, 0.98), seed=st.integers(0, 9))
def test_every_stretch_of_the_data_gives_its_share(sizes, share, seed) -> None:
    total = sum(sizes)
    count = max(1, round(share * total))
    (part,) = calibration(numbered(sizes)).parts([count], seeded(seed), CPU)
    taken = np.isin(np.arange(total), examples(part))
    for start in range(total - 63):
        whole_block = start % 64 == 0  # what examples are shuffled within
        assert abs(int(taken[start : start + 64].sum()) - 64 * count / total) <= (7 if whole_block else 14)


def test_any_example_may_be_in_a_part_and_another_seed_gives_another_part() -> None:
    found = [examples(calibration(numbered([50])).parts([10], seeded(seed), CPU)[0]) for seed in range(40)]
    assert {number for numbers in found for number in numbers} == set(range(50))
    assert len(set(map(tuple, found))) > 30


@given(sizes=SIZES, first=st.integers(1, 200), count=st.integers(1, 200), seed=st.integers(0, 9))
def test_a_part_is_divided_like_data_that_hold_nothing_else(sizes, first, count, seed) -> None:
    part = calibration(numbered(sizes)).parts([first], seeded(seed), CPU)[0]
    alone = calibration(part.pairs)
    assert same(part, alone)
    parts = [whole.parts([count, ALL], seeded(seed + 1), CPU) for whole in (part, alone)]
    assert all(map(same, *parts))
    assert parts[0][0].count == min(count, part.count)
    held = [whole.held_out(seeded(seed), CPU) for whole in (part, alone)]
    assert all(map(np.array_equal, *held))


@given(sizes=SIZES, seed=st.integers(0, 9))
def test_one_example_in_eight_is_held_out(sizes, seed) -> None:
    whole = calibration(numbered(sizes))
    held = whole.held_out(seeded(seed), CPU)
    assert [len(each) for each in held] == [len(batch.numbers) for batch in whole.batches]
    assert sum(int(each.sum()) for each in held) == round(sum(sizes) / HELD_OUT)


def test_batches_that_cannot_be_divided_are_taken_as_a_whole() -> None:
    batches = [{"x": part[:, None], "shared": torch.zeros(3)} for part in torch.arange(96).split(8)]
    whole = read(network(Dicts()), batches, batches[0], **PLAIN)
    assert [len(batch.numbers) for batch in whole.batches] == [8] * 12

    def numbers(part: Any) -> list[list[int]]:
        return [batch["x"][:, 0].tolist() for batch in part.inputs]

    first, second = map(numbers, whole.parts([24, 48], seeded(0), CPU))
    assert [*map(len, first)] == [8] * 3
    assert [*map(len, second)] == [8] * 6
    assert all(batch == [*range(batch[0], batch[0] + 8)] for batch in (*first, *second))
    assert len({number for batch in (*first, *second) for number in batch}) == 72
    assert np.ptp([batch[0] // 8 for batch in first]) >= 6
    (least,) = map(numbers, whole.parts([1], seeded(0), CPU))
    assert [*map(len, least)] == [8]
    assert all(each.all() == each.any() for each in whole.held_out(seeded(0), CPU))


def test_labels_that_are_not_one_for_each_example_keep_a_batch_whole() -> None:
    whole = calibration([(torch.zeros(4, 1, dtype=torch.int64), torch.zeros(3)), *numbered([5])], batch_size=2)
    assert [len(batch.numbers) for batch in whole.batches] == [4, 2, 2, 1]


def test_examples_of_other_forms_stay_apart_and_in_order() -> None:
    batches = [torch.full((2, length), float(number)) for number, length in enumerate([3, 4, 3, 3, 4])]
    whole = read(network(nn.Identity()), batches, batches[0], **{**PLAIN, "batch_size": 4})
    inputs: list[Any] = whole.inputs
    assert [x[:, 0].tolist() for x in inputs] == [[0, 0, 2, 2], [1, 1, 4, 4], [3, 3]]
    assert [x.shape[1] for x in inputs] == [3, 4, 3]
    assert [batch.numbers.tolist() for batch in whole.batches] == [[0, 1, 4, 5], [2, 3, 8, 9], [6, 7]]


@given(sizes=SIZES, batch_size=st.integers(1, 100), count=st.integers(1, 200))
def test_labels_stay_with_their_inputs(sizes, batch_size, count) -> None:
    whole = calibration(numbered(sizes), batch_size)
    for part in (whole, *whole.parts([count, ALL], seeded(0), CPU)):
        pairs: list[tuple[Any, Any]] = part.pairs
        assert all(torch.equal(labels, 1000 + x[:, 0]) for x, labels in pairs)


@pytest.mark.parametrize("labels", [[3, 1], (3, 1), np.array([3, 1])], ids=lambda labels: type(labels).__name__)
def test_labels_become_tensors_and_are_left_out_where_nobody_reads_them(labels) -> None:
    data = [(torch.zeros(2, 1, dtype=torch.int64), labels)]
    ((_, found),) = calibration(data).pairs
    assert torch.equal(found, torch.tensor([3, 1]))
    assert [label for _, label in calibration(data, labels=False).pairs] == [None]


def test_a_generator_that_reuses_its_tensor_is_copied_and_a_list_is_not() -> None:
    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        buffer, labels = torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
        for start in (0, 3, 6):
            yield buffer.copy_(torch.arange(start, start + 3)[:, None]), labels.copy_(torch.arange(start, start + 3))

    for batch_size in (1, 2, 3, 4, 64):
        whole = calibration(batches(), batch_size)
        assert examples(whole) == torch.cat([label for _, label in whole.pairs]).tolist() == [*range(9)]
    given = [torch.zeros(3, 1, dtype=torch.int64)]
    assert calibration(given, batch_size=3).inputs[0] is given[0]


@given(sizes=SIZES, limit=st.integers(0, 2000), batch_size=st.integers(1, 100))
@settings(max_examples=30)  # each writes files
def test_what_exceeds_the_memory_is_mapped_from_files_of_equal_values(sizes, limit, batch_size) -> None:
    whole, spilled = (calibration(numbered(sizes), batch_size, memory_bytes=given) for given in (np.inf, limit))
    assert same(whole, spilled)
    assert spilled.storage is not None
    folder = spilled.storage._folder
    assert (folder is not None) == (16 * sum(sizes) > limit)
    if folder is not None:
        assert sum(path.stat().st_size for path in folder.iterdir()) >= 16 * sum(sizes) - limit


def test_files_are_removed_with_the_last_calibration_that_needs_them() -> None:
    spilled = calibration(numbered([30]), memory_bytes=0)
    assert spilled.storage is not None
    assert spilled.storage._folder is not None
    folder = spilled.storage._folder
    part = spilled.parts([10], seeded(0), CPU)[0]
    del spilled
    gc.collect()
    assert folder.is_dir()
    del part
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.bool], ids=str
)
def test_tensors_of_any_type_and_layout_can_be_mapped(dtype) -> None:
    tensor = torch.arange(24).view(4, 6).to(dtype).t()
    found = Storage(0).keep(tensor)
    assert found.dtype == dtype
    assert torch.equal(found, tensor)
    assert found.data_ptr() != tensor.data_ptr()
    assert Storage(tensor.nbytes).keep(tensor) is tensor


@pytest.mark.parametrize("n_processes", [2, 3])
def test_examples_that_processes_share_belong_to_the_same_parts_as_in_one(n_processes, monkeypatch) -> None:
    batches, counts = numbered([8] * 12), (20, 40, ALL)
    expected = [set(examples(part)) for part in calibration(batches).parts(counts, seeded(0), CPU)]
    found: list[set[int]] = [set() for _ in counts]
    monkeypatch.setattr(Calibration, "total", lambda self, device: 96)
    for index in range(n_processes):
        monkeypatch.setattr(module, "world", lambda index=index: (index, n_processes))
        mine = calibration(batches[index::n_processes])
        for taken, part in zip(found, mine.parts(counts, seeded(0), CPU), strict=True):
            taken |= set(examples(part))
    assert found == expected


def test_the_same_images_on_disk_give_the_same_plan() -> None:
    """In memory, in batches of any size: `tests/methods/test_walk_properties.py`."""
    subject = SUBJECTS["residual"]
    images = torch.cat(subject.batches(2, 48))
    choices: dict[str, Any] = {"example_inputs": subject.example(), "widths": Sensitivity(examples=24)}
    choices["repair"] = [Refit(shrinkage="held_out"), "recalibrate", Reconstruct(steps=2)]
    expected = prune(subject.network(), [images], "macs<=60%", **choices).plan
    for size, memory_gib in ((32, 0), (64, 1e-5)):
        resources = Resources(memory_gib=memory_gib)
        found = prune(subject.network(), list(images.split(size)), "macs<=60%", resources=resources, **choices).plan
        assert found.identity == expected.identity, size


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (torch.zeros(2, 1), "wrap a single batch in a list"),
        ({"x": torch.zeros(2, 1)}, "must be an iterable of batches"),
        (7, "given a int"),
        ([torch.zeros(0, 1, dtype=torch.int64)], "it has no examples; leave empty batches out"),
        ([torch.zeros(2, 1, 1, dtype=torch.int64)], "give batches with as many tensors and dimensions"),
        (["text"], "must be like example_inputs"),
    ],
    ids=["tensor", "dict", "number", "empty batch", "more dimensions", "text"],
)
def test_what_is_no_calibration_data_is_refused(data, text) -> None:
    with pytest.raises(CalibrationError, match=text):
        calibration(data)


def test_a_batch_that_the_network_does_not_run_on_is_refused_and_named() -> None:
    batches = [torch.zeros(2, 3), torch.zeros(2, 4)]
    with pytest.raises(CalibrationError, match=r"floats \(batch, 4\) does not fit the network, .* \(batch, 3\)"):
        read(network(nn.Linear(3, 2)), batches, batches[0], **PLAIN)
