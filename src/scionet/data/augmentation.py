"""Random augmentation of training images, as in torchvision. Uses torch's random number generator."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from scionet.data.images import Preprocessing
from scionet.errors import InvalidSetting, unknown
from scionet.extras import extra

with extra("images"):
    from PIL import Image, ImageOps

RATIO = (3 / 4, 4 / 3)
"""Minimum and maximum aspect ratio (width over height) of a random crop."""
ATTEMPTS = 10

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of images. Both kinds flip an image with probability 1/2.

    Attributes:
        kind: ``"shift"``: pad with black on every side, then crop randomly to the old size. ``"zoom"``: crop a region
            of random area and shape, then resize it to the crop size of the preprocessing.
        padding: Shift: pixels added on every side.
        smallest_crop: Zoom: minimum area of the crop, as a fraction of the image.
    """

    kind: Literal["shift", "zoom"]
    padding: int = 4
    smallest_crop: float = 0.08

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidSetting: If the kind is unknown or a number is out of range.
        """
        if self.kind not in ("shift", "zoom"):
            raise unknown("augmentation", self.kind, ("shift", "zoom"))
        if self.padding < 0 or not 0 < self.smallest_crop <= 1:
            raise InvalidSetting(f"padding must be at least 0 and smallest_crop in (0, 1]; given {self}")

    def transform(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Image.Image]:
        """The augmented replacement of `Preprocessing.framed`.

        Raises:
            InvalidSetting: If the kind is zoom and there is no crop.
        """
        if self.kind == "zoom" and preprocessing.crop is None:
            raise InvalidSetting("augmentation 'zoom' needs a crop size; set crop in the preprocessing")
        return _Augmented(self, preprocessing)


@dataclass(frozen=True)
class _Augmented:
    """An augmentation with its preprocessing, in a form that can be sent to workers."""

    augmentation: Augmentation
    preprocessing: Preprocessing

    def __call__(self, image: Image.Image) -> Image.Image:
        side = self.preprocessing.crop
        if self.augmentation.kind == "shift" or side is None:
            image = _shifted(self.preprocessing.framed(image), self.augmentation.padding)
        else:
            box = _random_box(image.size, self.augmentation.smallest_crop)
            image = self.preprocessing.coloured(image).crop(box).resize((side, side), self.preprocessing.filter)
        return ImageOps.mirror(image) if torch.rand(1) < 0.5 else image


def _shifted(image: Image.Image, padding: int) -> Image.Image:
    """Shift the image by at most the padding and fill with black."""
    top, left = (int(torch.randint(2 * padding + 1, (1,))) for _ in range(2))
    width, height = image.size
    return ImageOps.expand(image, padding).crop((left, top, left + width, top + height))


def _random_box(size: tuple[int, int], smallest: float) -> Box:
    """A box of random area and shape (Szegedy et al., CVPR 2015); the largest central one if no attempt fits."""
    width, height = size
    lowest, highest = (math.log(ratio) for ratio in RATIO)
    for _ in range(ATTEMPTS):
        area = width * height * torch.empty(1).uniform_(smallest, 1).item()
        ratio = torch.empty(1).uniform_(lowest, highest).exp().item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(torch.randint(height - h + 1, (1,))), int(torch.randint(width - w + 1, (1,)))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
