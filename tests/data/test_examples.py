import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.albums import SQUARE, all_of, write_pictures, zipped

from scionet.data.augmentation import Augmentation
from scionet.data.examples import ImageExamples, Pairs
from scionet.data.folders import ImageFolder
from scionet.data.sampling import partition
from scionet.errors import CalibrationError, InvalidSetting
from scionet.models.factory import import_torchvision


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures" / "train")
    return tmp_path / "pictures"


@pytest.fixture
def folder(directory: Path) -> ImageFolder:
    return ImageFolder(directory, "train")


@pytest.mark.parametrize("archive", [False, True])
def test_examples_are_the_images_of_the_batches(directory: Path, archive: bool) -> None:
    folder = ImageFolder(zipped(directory) if archive else directory, "train")
    examples = ImageExamples(folder, SQUARE, [11, 0, 5])
    assert len(examples) == 3
    for (image, label), index in zip([examples[n] for n in range(3)], [11, 0, 5], strict=True):
        assert torch.equal(image, all_of(folder)[index])
        assert label == folder.labels[index]


def test_workers_read_one_zip_file_together(directory: Path) -> None:
    examples = ImageExamples(ImageFolder(zipped(directory), "train"), SQUARE)
    first = examples[0][0]  # opened here before the workers are made
    loader = torch.utils.data.DataLoader(examples, 2, num_workers=2)
    for _ in range(3):
        images = torch.cat([images for images, _ in loader])
        assert torch.equal(images, all_of(ImageFolder(zipped(directory), "train")))
        assert torch.equal(images[0], first)


def test_examples_survive_being_sent_to_a_worker(folder: ImageFolder) -> None:
    examples = ImageExamples(folder, SQUARE, augmentation=Augmentation("shift"))
    torch.manual_seed(0)
    expected = examples[3][0]
    torch.manual_seed(0)
    assert torch.equal(pickle.loads(pickle.dumps(examples))[3][0], expected)


def test_a_damaged_example_is_named(folder: ImageFolder) -> None:
    (Path(folder.root) / folder.paths[4]).write_bytes(b"no picture")
    with pytest.raises(CalibrationError, match=f"cannot use the image {folder.paths[4]}"):
        ImageExamples(folder, SQUARE)[4]


@pytest.mark.parametrize("content", [None, b"no zip file", b"PK\x05\x06" + bytes(18)], ids=["gone", "damaged", "empty"])
def test_the_identity_of_a_zip_file_that_was_changed_is_an_error(directory: Path, content: bytes | None) -> None:
    path = zipped(directory)
    examples = ImageExamples(ImageFolder(path, "train"), SQUARE)
    assert len(examples.identity()["sizes"]) == len(examples)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CalibrationError, match=f"cannot read {path}"):
        examples.identity()


def test_rows_of_any_kind_are_examples() -> None:
    rows = [{"image": 3.0, "label": np.int64(1)}, {"image": 4.0, "label": np.int64(0)}]
    named = Pairs(rows, "image", "label", torch.tensor)
    assert len(named) == 2
    assert named[1] == (torch.tensor(4.0), 0)
    assert type(named[1][1]) is int
    assert Pairs([("a", 7)])[0] == ("a", 7)


def test_examples_of_torchvision_are_examples() -> None:
    vision = import_torchvision()
    data = vision.datasets.FakeData(4, (3, 5, 5), 2, transform=vision.transforms.ToTensor())
    image, label = Pairs(data)[2]
    assert image.shape == (3, 5, 5)
    assert label in (0, 1)


PARTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 10), max_size=4)


@given(sizes=PARTS, left=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_parts_are_disjoint_and_complete(sizes: dict[str, int], left: int, seed: int) -> None:
    count = sum(sizes.values()) + left
    parts = partition(count, sizes, seed)
    assert {name: len(part) for name, part in parts.items()} == {**sizes, "train": left}
    assert sorted(np.concatenate([*parts.values()])) == list(range(count))
    assert all(np.all(np.diff(part) > 0) for part in parts.values())


def test_a_part_does_not_change_when_others_are_added() -> None:
    few, more = partition(100, {"test": 10}, 3), partition(100, {"test": 10, "validation": 20}, 3, rest="learn")
    assert np.array_equal(few["test"], more["test"])
    assert set(more["learn"]) < set(few["train"])
    assert not np.array_equal(few["test"], partition(100, {"test": 10}, 4)["test"])


@pytest.mark.parametrize("sizes", [{"a": 10}, {"a": 5, "b": 6}, {"a": -1}, {"train": 1}], ids=str)
def test_impossible_parts_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting, match="from 10 examples and leave some for 'train'"):
        partition(10, sizes, 0)
