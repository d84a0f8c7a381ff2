"""Labelled data from a source given as text."""

import gzip
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from support.albums import CLASSES, write_pictures
from support.hostile_files import PICTURES
from torch.utils.data import TensorDataset

from scionet.data.augmentation import Augmentation
from scionet.data.images import Preprocessing
from scionet.data.sources import Batches, read_source
from scionet.errors import CalibrationError, InvalidSetting, TrainingError

PLAIN = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))


def idx(folder: Path, compressed: bool, count: int = 7) -> np.ndarray:
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (count, 5, 4), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 3
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
            content = bytes((0, 0, 8, array.ndim)) + shape + array.tobytes()
            path = folder / (f"{name}.gz" if compressed else name)
            path.write_bytes(gzip.compress(content) if compressed else content)
        if part == "train":
            first = images
    return first


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_are_read_as_they_are(tmp_path, compressed: bool) -> None:
    images = idx(tmp_path, compressed)
    found = read_source(f"idx:{tmp_path.name}", PLAIN, tmp_path.parent)
    assert found.train.count == 7
    assert found.test is not None
    assert found.test.count == 7
    x, y = found.train.choose([4, 2], None)[0]
    assert y == 1
    assert torch.equal(x, torch.from_numpy(images[4] / 255).float().expand(3, 5, 4))


def test_batches_are_repeatable_and_complete(tmp_path) -> None:
    idx(tmp_path, compressed=False)
    batches = Batches(read_source(f"idx:{tmp_path}", PLAIN, Path()).train.choose(range(7), None), 3)
    first, second = list(batches), list(batches)
    assert [len(labels) for _, labels in first] == [3, 3, 1]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    assert torch.cat([labels for _, labels in first]).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_image_folders_with_and_without_splits(tmp_path) -> None:
    for part in ("a/train", "a/val", "b"):
        write_pictures(tmp_path / part)
    split, whole = (read_source(f"images:{name}", Preprocessing(), tmp_path) for name in "ab")
    assert split.test is not None
    assert split.train.count == split.test.count == sum(CLASSES.values())
    assert whole.test is None
    assert whole.train.count == sum(CLASSES.values())


def test_a_function_gives_one_or_two_data_sets(tmp_path, monkeypatch) -> None:
    made = TensorDataset(torch.arange(6.0).view(6, 1), torch.arange(6))
    module = type(sys)("homemade")
    module.both, module.one = (lambda: (made, made)), (lambda: made)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "homemade", module)
    both, one = (read_source(f"homemade:{name}", PLAIN, tmp_path) for name in ("both", "one"))
    assert both.test is not None
    assert one.test is None
    x, y = one.train.choose([5], None)[0]
    assert (x.item(), y) == (5.0, 5)


def saved(folder: Path, parts: dict[str, int], column: str = "img") -> None:
    """A Hugging Face data set in a folder: images whose red value is their index."""
    features = datasets.Features({column: datasets.Image(), "label": datasets.ClassLabel(2)})
    rows = {
        name: {
            column: [Image.new("RGB", (4, 4), (n, 0, 0)) for n in range(count)],
            "label": [n % 2 for n in range(count)],
        }
        for name, count in parts.items()
    }
    made = {name: datasets.Dataset.from_dict(content, features=features) for name, content in rows.items()}
    datasets.DatasetDict(made).save_to_disk(folder)


def test_hugging_face_data_sets_by_their_columns(tmp_path: Path) -> None:
    saved(tmp_path / "saved", {"train": 5, "test": 2})
    found = read_source("huggingface:saved", PLAIN, tmp_path)
    assert found.test is not None
    assert (found.train.count, found.test.count) == (5, 2)
    x, y = found.train.choose([3], None)[0]
    assert (x[0, 0, 0].item(), y) == (pytest.approx(3 / 255), 1)
    saved(tmp_path / "strange", {"train": 2}, "scan")
    with pytest.raises(InvalidSetting, match=r"has the columns \['scan', 'label'\]"):
        read_source("huggingface:strange", PLAIN, tmp_path)


def test_pictures_of_a_hugging_face_data_set_are_decoded_here(tmp_path: Path) -> None:
    """Not by datasets, which would start Ghostscript for an EPS."""
    features = datasets.Features({"img": datasets.Image(decode=False), "label": datasets.ClassLabel(2)})
    rows = {"img": [{"bytes": PICTURES["EPS"], "path": None}], "label": [0]}
    hostile = datasets.Dataset.from_dict(rows, features=features).cast_column("img", datasets.Image())
    datasets.DatasetDict({"train": hostile}).save_to_disk(tmp_path / "hostile")
    examples = read_source("huggingface:hostile", PLAIN, tmp_path).train.choose([0], None)
    with pytest.raises(CalibrationError, match="not a readable image"):
        examples[0]


def test_hugging_face_needs_a_version_that_runs_no_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(InvalidSetting, match=r"needs datasets 4 or newer.*3\.6\.0"):
        read_source("huggingface:saved", PLAIN, tmp_path)


def test_a_hugging_face_data_set_needs_parts(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"label": [0]}).save_to_disk(tmp_path / "rows")
    with pytest.raises(InvalidSetting, match="has no part 'train'"):
        read_source("huggingface:rows", PLAIN, tmp_path)


def test_a_missing_hugging_face_data_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for name in ("nobody/nothing", "empty"):
        with pytest.raises(InvalidSetting, match=f"datasets cannot read {name}: .*save_to_disk wrote"):
            read_source(f"huggingface:{name}", PLAIN, tmp_path)


def test_torchvision_data_sets_are_read_where_they_are(tmp_path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = idx(raw, compressed=False)
    found = read_source("torchvision:FashionMNIST", PLAIN, tmp_path)
    x, _ = found.train.choose([3], None)[0]
    assert torch.equal(x[0], torch.from_numpy(images[3] / 255).float())


def test_augmentation_uses_torchs_random_numbers(tmp_path) -> None:
    idx(tmp_path, compressed=False)
    part = read_source(f"idx:{tmp_path}", PLAIN, Path()).train
    changed = part.choose([0], Augmentation("shift", 2))
    torch.manual_seed(0)
    first = changed[0][0]
    torch.manual_seed(0)
    assert torch.equal(changed[0][0], first)
    assert not torch.equal(first, part.choose([0], None)[0][0])


def test_tensors_are_not_augmented() -> None:
    examples = read_source("digits", PLAIN, Path()).train.choose([0, 1], Augmentation("shift"))
    with pytest.raises(TrainingError, match="augmentation applies to images, not to Tensor"):
        list(Batches(examples, 2))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digit", "data must be given as digits, images:PATH"),
        ("images:", "data must be given as"),
        ("digits:2", "data must be given as"),
        ("idx:nowhere", "has neither train-images-idx3-ubyte nor"),
        ("images:nowhere", "does not exist"),
        ("torchvision:CIFAR11", "torchvision has no data set 'CIFAR11'"),
        ("torchvision:CIFAR10", "torchvision cannot read CIFAR10"),
        ("no.such:thing", "No module named 'no'"),
        ("math:thing", "has no attribute 'thing'"),
    ],
)
def test_wrong_names_are_refused(tmp_path, source: str, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        read_source(source, PLAIN, tmp_path)


def test_damaged_files_are_named(tmp_path) -> None:
    idx(tmp_path, compressed=True)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(InvalidSetting, match=r"train-images-idx3-ubyte\.gz is damaged"):
        read_source(f"idx:{tmp_path}", PLAIN, Path())
    with pytest.raises((CalibrationError, InvalidSetting)):
        read_source("images:train-images-idx3-ubyte.gz", PLAIN, tmp_path)
