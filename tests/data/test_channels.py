"""Grey images stay grey; mean and std choose the channels."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scionet.data.augmentation import Augmentation
from scionet.data.batches import batches
from scionet.data.examples import ImageExamples
from scionet.data.folders import ImageFolder
from scionet.data.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from scionet.data.sources import Prepared, read_source
from scionet.errors import InvalidSetting

GREY = Preprocessing(mean=(0.25,), std=(0.5,))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)


def test_one_channel_stays_in_zero_to_one_by_default() -> None:
    found = Prepared(Preprocessing())(Image.fromarray(PIXELS))
    assert torch.equal(found, torch.from_numpy(PIXELS).float()[None] / 255)


def test_three_values_make_grey_images_rgb() -> None:
    found = Prepared(Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD))(Image.fromarray(PIXELS))
    scaled = torch.from_numpy(PIXELS) / 255
    expected = torch.stack([(scaled - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)])
    torch.testing.assert_close(found, expected)


def test_one_value_makes_colour_images_grey() -> None:
    found = Prepared(GREY)(Image.fromarray(np.stack([PIXELS] * 3, axis=2)))
    torch.testing.assert_close(found, (torch.from_numpy(PIXELS).float()[None] / 255 - 0.25) / 0.5)


def test_one_of_mean_and_std_is_enough_to_choose_the_channels() -> None:
    assert Preprocessing(mean=(0.1,)).statistics(1) == ((0.1,), (1.0,))
    assert Preprocessing(std=(1, 2, 3)).statistics(3) == (IMAGENET_MEAN, (1, 2, 3))


@pytest.mark.parametrize("kind", [None, Augmentation("shift", 2), Augmentation("zoom")])
def test_folders_are_rgb_unless_one_value_is_given(tmp_path: Path, kind: Augmentation | None) -> None:
    for number, array in enumerate((PIXELS, np.stack([PIXELS] * 3, axis=2))):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "a" / f"{number}.png")
    folder = ImageFolder(tmp_path)
    for preprocessing, channels in ((Preprocessing(crop=5), 3), (Preprocessing(crop=5, mean=(0.0,)), 1)):
        shapes = {tuple(ImageExamples(folder, preprocessing, None, kind)[i][0].shape) for i in range(2)}
        assert shapes == {(channels, 5, 5)}
        (batch,) = batches(folder, preprocessing, 2)
        assert isinstance(batch, torch.Tensor)
        assert batch.shape == (2, channels, 5, 5)


@pytest.mark.parametrize(
    "values",
    [{"mean": (0.1, 0.2)}, {"mean": ()}, {"mean": (0.1,), "std": (1, 1, 1)}, {"std": (1,) * 4}],
)
def test_other_numbers_of_channels_are_refused(values) -> None:
    with pytest.raises(InvalidSetting, match=r"three values each \(RGB\) or one \(grey\)"):
        Preprocessing(**values)


def test_the_folder_of_a_package_may_have_its_files_in_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for part, count in (("train", 3), ("t10k", 2)):
        images = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (count, 6, 5)) + PIXELS.tobytes() * count
        (tmp_path / "data" / f"{part}-images-idx3-ubyte").write_bytes(images)
        labels = bytes((0, 0, 8, 1)) + count.to_bytes(4, "big") + bytes(range(count))
        (tmp_path / "data" / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    found = read_source(f"idx:{tmp_path}", Preprocessing(), Path())
    x, y = found.train.choose([2], None)[0]
    assert (found.train.count, y, tuple(x.shape)) == (3, 2, (1, 6, 5))


@given(st.integers(1, 6), st.integers(1, 9), st.booleans())
def test_tables_of_pixels_are_read(tmp_path_factory, side: int, count: int, compressed: bool) -> None:
    rng = np.random.default_rng(side)
    images, labels = rng.integers(0, 256, (count, side, side)), rng.integers(0, 256, count)
    text = "".join(",".join(map(str, (*x.ravel(), y))) + "\n" for x, y in zip(images, labels, strict=True)).encode()
    path = tmp_path_factory.mktemp("table") / ("t.csv.gz" if compressed else "t.csv")
    path.write_bytes(gzip.compress(text) if compressed else text)
    found = read_source(f"csv:{path}", Preprocessing(), Path())
    assert found.test is None
    examples = found.train.choose(range(count), None)
    for index in range(count):
        x, y = examples[index]
        assert y == labels[index]
        assert torch.equal(x, torch.from_numpy(images[index] / 255).float()[None])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"1,2,3\n", "rows have 3 numbers, which is not a square and one more"),
        (b"7\n", "not a square"),
        (b"256,1\n", "numbers from 1 to 256"),
        (b"-1,1\n", "numbers from -1"),
        (b"pixel,label\n1,2\n", "could not convert"),
        (b"1,2\n1,2,3\n", "number of columns changed"),
        (b"1.5,2\n", "could not convert"),
        (b"\xff\xfe,1\n", "could not convert"),
        (b"9" * 500 + b",1\n", "could not convert"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InvalidSetting, match=message):
        read_source("csv:t.csv", Preprocessing(), tmp_path)


def test_a_damaged_or_missing_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(InvalidSetting, match=r"t\.csv\.gz is not a table"):
        read_source("csv:t.csv.gz", Preprocessing(), tmp_path)
    with pytest.raises(InvalidSetting, match="there is no file"):
        read_source("csv:nowhere", Preprocessing(), tmp_path)
    monkeypatch.setattr("scionet.data.csv_pictures.MAX_BYTES", 3)
    (tmp_path / "t.csv").write_bytes(b"1,2\n")
    with pytest.raises(InvalidSetting, match="more than 3 bytes"):
        read_source("csv:t.csv", Preprocessing(), tmp_path)
