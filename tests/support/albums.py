"""Folders and zip files of small pictures."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scionet.data.batches import batches
from scionet.data.folders import ImageFolder
from scionet.data.images import Preprocessing

CLASSES = {"bee": 4, "Ant": 3, "cat 2": 6}
SQUARE = Preprocessing(size=12, crop=10)


def noise(width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_pictures(root: Path) -> None:
    for label, (name, count) in enumerate(CLASSES.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            kind = "png" if number % 2 else "JPG"
            noise(14 + number, 20 - label, 10 * label + number).save(root / name / f"{number}.{kind}")


def zipped(root: Path) -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(root).as_posix())
    return path


def all_of(folder: ImageFolder, preprocessing: Preprocessing = SQUARE) -> torch.Tensor:
    images = [batch for batch in batches(folder, preprocessing, 5) if isinstance(batch, torch.Tensor)]
    return torch.cat(images)
