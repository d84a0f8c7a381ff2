import threading
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from support.albums import SQUARE, all_of, noise, write_pictures, zipped

from scionet.data.batches import batches
from scionet.data.digits import digits
from scionet.data.folders import ImageFolder
from scionet.data.images import IMAGENET_MEAN, IMAGENET_STD, Pixels, Preprocessing
from scionet.data.sampling import sample
from scionet.errors import CalibrationError, InvalidSetting
from scionet.models.factory import import_torchvision


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures" / "train")
    write_pictures(tmp_path / "pictures" / "test")
    (tmp_path / "pictures" / "train" / "bee" / "notes.txt").write_text("no picture")
    (tmp_path / "pictures" / "train" / "bee" / "._0.JPG").write_bytes(b"resource fork")
    return tmp_path / "pictures"


@pytest.fixture
def folder(directory: Path) -> ImageFolder:
    return ImageFolder(directory, "train")


def test_folder_lists_what_torchvision_lists(directory: Path, folder: ImageFolder) -> None:
    (directory / "train" / "bee" / "._0.JPG").unlink()
    expected = import_torchvision().datasets.ImageFolder(str(directory / "train"))
    assert list(folder.classes) == expected.classes
    assert [(str(directory / path), label) for path, label in zip(folder.paths, folder.labels, strict=True)] == [
        (path, label) for path, label in expected.samples
    ]


def test_zip_and_directory_are_the_same(directory: Path, folder: ImageFolder) -> None:
    archive = ImageFolder(zipped(directory), "train")
    assert (archive.classes, archive.paths, archive.labels) == (folder.classes, folder.paths, folder.labels)
    torch.testing.assert_close(all_of(archive), all_of(folder), rtol=0, atol=0)


def test_folder_without_split(directory: Path, folder: ImageFolder) -> None:
    plain = ImageFolder(str(directory / "train"))
    assert plain.labels == folder.labels
    torch.testing.assert_close(all_of(plain), all_of(folder), rtol=0, atol=0)


@given(
    width=st.integers(9, 70),
    height=st.integers(9, 70),
    size=st.none() | st.integers(9, 40),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_preprocessing_is_that_of_torchvision(width: int, height: int, size: int | None, interpolation: str) -> None:
    transforms = import_torchvision().transforms
    picture = noise(width, height, 7)
    ours = Preprocessing(size, 9, interpolation=interpolation)  # pyright: ignore[reportArgumentType]
    resize = [transforms.Resize(size, transforms.InterpolationMode(interpolation))] if size else []
    normalise = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    expected = transforms.Compose([*resize, transforms.CenterCrop(9), *normalise])(picture)
    torch.testing.assert_close(ours.tensor(decoded(ours, picture))[0], expected, rtol=1e-5, atol=1e-5)


def decoded(preprocessing: Preprocessing, picture: Image.Image) -> Pixels:
    """The image as a batch of one, shape (1, height, width, 3)."""
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return np.stack([preprocessing.pixels(buffer.getvalue())])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_colour_mode_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a").mkdir()
    noise(8, 8, 1).convert(mode).save(tmp_path / "a" / "0.jpg", "JPEG" if mode == "CMYK" else "PNG")
    assert all_of(ImageFolder(tmp_path), Preprocessing()).shape == (1, 3, 8, 8)


def test_preprocessing_without_resize_keeps_pixels() -> None:
    picture = noise(5, 7, 3)
    plain = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    images = plain.tensor(decoded(plain, picture))
    expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(images, expected)
    assert images.is_contiguous()


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 0},
        {"crop": -1},
        {"size": 10, "crop": 11},
        {"std": (1.0, 0.0, 1.0)},
        {"interpolation": "bilinaer"},
    ],
)
def test_preprocessing_refuses_nonsense(settings: dict) -> None:
    with pytest.raises(InvalidSetting, match=r"given|larger|bilinear"):
        Preprocessing(**settings)


def test_batches_with_labels_follow_the_indices(folder: ImageFolder) -> None:
    indices = [11, 0, 5, 5]
    pairs = list(batches(folder, SQUARE, 3, indices, labels=True))
    assert [len(labels) for _, labels in pairs] == [3, 1]
    torch.testing.assert_close(torch.cat([images for images, _ in pairs]), all_of(folder)[indices])
    labels = torch.cat([labels for _, labels in pairs])
    assert labels.tolist() == [folder.labels[i] for i in indices]


@pytest.mark.parametrize("in_memory", [False, True])
def test_batches_are_the_same_at_every_iteration(folder: ImageFolder, in_memory: bool) -> None:
    again = batches(folder, SQUARE, 4, in_memory=in_memory)
    first, second = list(again), list(again)
    assert [len(batch) for batch in first] == [4, 4, 4, 1]
    assert len(again) == 4
    for one, other, expected in zip(first, second, all_of(folder).split(4), strict=True):
        assert torch.equal(torch.as_tensor(one), expected)
        assert torch.equal(torch.as_tensor(other), expected)


def test_in_memory_batches_survive_the_files(folder: ImageFolder) -> None:
    kept = batches(folder, SQUARE, 4, in_memory=True)
    for path in folder.paths:
        (Path(folder.root) / path).unlink()
    assert len(list(kept)) == 4


def test_abandoned_iteration_leaves_no_thread(folder: ImageFolder) -> None:
    before = threading.active_count()
    iteration = iter(batches(folder, SQUARE, 2))
    next(iteration)
    assert threading.active_count() > before
    del iteration
    assert threading.active_count() == before


@pytest.mark.parametrize(("batch_size", "indices"), [(0, [1]), (-3, None), (2, []), (2, [0, 13]), (2, [-1])], ids=str)
def test_batches_refuse_bad_numbers(folder: ImageFolder, batch_size: int, indices: list[int] | None) -> None:
    with pytest.raises(InvalidSetting):
        batches(folder, SQUARE, batch_size, indices)


@pytest.mark.parametrize("damage", [b"", b"no picture at all", None])
@pytest.mark.parametrize("in_memory", [False, True])
def test_damaged_image_is_named(folder: ImageFolder, damage: bytes | None, in_memory: bool) -> None:
    path = Path(folder.root) / folder.paths[4]
    path.write_bytes(path.read_bytes()[:200] if damage is None else damage)
    with pytest.raises(CalibrationError, match=folder.paths[4]):
        list(batches(folder, SQUARE, 4, in_memory=in_memory))


def test_damaged_zip_entry_is_named(directory: Path) -> None:
    path = zipped(directory)
    folder = ImageFolder(path, "train")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(folder.paths[7])
    data = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    data[start + 20 : start + 60] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(CalibrationError, match=folder.paths[7]):
        all_of(folder)


def test_missing_image_is_named(folder: ImageFolder) -> None:
    (Path(folder.root) / folder.paths[2]).unlink()
    with pytest.raises(CalibrationError, match=folder.paths[2]):
        all_of(folder)


def test_image_smaller_than_the_crop_is_named(folder: ImageFolder) -> None:
    with pytest.raises(CalibrationError, match=rf"{folder.paths[0]}.* smaller than the crop of 18"):
        all_of(folder, Preprocessing(crop=18))


def test_images_of_different_sizes_are_refused(folder: ImageFolder) -> None:
    with pytest.raises(CalibrationError, match=rf"{folder.paths[1]}.*give a size and a crop"):
        all_of(folder, Preprocessing())


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("nowhere", None, "does not exist"),
        ("pictures/train/bee/notes.txt", None, "is neither"),
        ("pictures", None, "give the split test or train"),
        ("pictures", "trian", "give the split test or train"),
        ("pictures/train/bee", None, "one folder per class"),
        ("empty", None, "nor elsewhere"),
    ],
)
def test_wrong_folders_are_explained(
    directory: Path, tmp_path: Path, name: str, split: str | None, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidSetting, match=message):
        ImageFolder(tmp_path / name, split)


@given(count=st.integers(1, 13), seed=st.integers(0, 2**32 - 1))
def test_sample_is_a_seeded_subset(count: int, seed: int) -> None:
    folder = listed([3, 4, 6])
    indices = sample(folder, count, seed)
    assert len(set(indices.tolist())) == count
    assert np.all(np.diff(indices) > 0)
    assert 0 <= indices[0] <= indices[-1] < 13
    assert np.array_equal(indices, sample(folder, count, seed))


@given(count=st.integers(1, 3), seed=st.integers(0, 1000))
def test_sample_per_class_takes_the_same_number_of_each(count: int, seed: int) -> None:
    folder = listed([3, 4, 6])
    sampled = Counter(folder.labels[i] for i in sample(folder, count, seed, per_class=True))
    assert sampled == dict.fromkeys(range(3), count)


def test_sample_depends_on_the_seed_and_reaches_every_image() -> None:
    folder = listed([30, 40])
    draws = [sample(folder, 20, seed).tolist() for seed in range(30)]
    assert len({tuple(draw) for draw in draws}) == 30
    assert {i for draw in draws for i in draw} == set(range(70))


@pytest.mark.parametrize(("count", "per_class"), [(0, False), (14, False), (4, True)])
def test_sample_refuses_more_images_than_exist(count: int, per_class: bool) -> None:
    with pytest.raises(InvalidSetting, match=f"{count} images requested"):
        sample(listed([3, 4, 6]), count, 0, per_class)


def listed(counts: list[int]) -> ImageFolder:
    """A folder without files, of which only the labels are used."""
    folder = object.__new__(ImageFolder)
    labels = tuple(label for label, count in enumerate(counts) for _ in range(count))
    for name, value in {"root": "listed", "labels": labels, "paths": labels, "classes": tuple(counts)}.items():
        object.__setattr__(folder, name, value)
    return folder


def test_digits_are_those_of_scikit_learn_split_in_two() -> None:
    train_x, train_y, val_x, val_y = digits()
    assert (train_x.shape, val_x.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert (train_x.dtype, train_y.dtype) == (torch.float32, torch.int64)
    images, labels = load_digits(return_X_y=True)
    rows = torch.cat([torch.cat([train_x, val_x]).flatten(1) * 16, torch.cat([train_y, val_y])[:, None]], 1)
    expected = np.column_stack([images, labels])
    assert Counter(map(tuple, rows.tolist())) == Counter(map(tuple, expected.tolist()))
    assert torch.bincount(val_y).min() >= 34  # the shares of the classes are kept


def test_digits_split_is_seeded() -> None:
    assert torch.equal(digits(1)[0], digits(1)[0])
    assert not torch.equal(digits(1)[0], digits(2)[0])
