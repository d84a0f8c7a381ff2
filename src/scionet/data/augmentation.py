"""What is done to pictures at random while a network learns, with torch's random numbers; as in torchvision."""

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
"""Width over height of a random crop, at least and at most."""
ATTEMPTS = 10

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Augmentation:
    """What is done to pictures at random.

    Attributes:
        kind: ``"shift"``: add black pixels on every side, crop to the old size, flip every other picture.
            ``"zoom"``: crop a part of random area and shape, resize it to the crop of the preprocessing, flip.
        padding: Shift: pixels added on every side.
        smallest_crop: Zoom: smallest share of the area.
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
            raise InvalidSetting(f"padding is 0 or more, smallest_crop lies in (0, 1]; given {self}")

    def of(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Image.Image]:
        """What takes the place of `Preprocessing.framed`.

        Raises:
            InvalidSetting: If the kind is zoom and there is no crop.
        """
        if self.kind == "zoom" and preprocessing.crop is None:
            raise InvalidSetting("augmentation zoom needs the side of its pictures; give a crop")
        return _Augmented(self, preprocessing)


@dataclass(frozen=True)
class _Augmented:
    """From a picture to a network's; sent to workers."""

    augmentation: Augmentation
    preprocessing: Preprocessing

    def __call__(self, image: Image.Image) -> Image.Image:
        side = self.preprocessing.crop
        if self.augmentation.kind == "shift" or side is None:
            image = _shifted(self.preprocessing.framed(image), self.augmentation.padding)
        else:
            box = _random_box(image.size, self.augmentation.smallest_crop)
            image = image.crop(box).resize((side, side), self.preprocessing.filter)
        return ImageOps.mirror(image) if torch.rand(1) < 0.5 else image


def _shifted(image: Image.Image, padding: int) -> Image.Image:
    """The picture moved by at most the padding, black where nothing is left."""
    top, left = (int(torch.randint(2 * padding + 1, (1,))) for _ in range(2))
    width, height = image.size
    return ImageOps.expand(image, padding).crop((left, top, left + width, top + height))


def _random_box(size: tuple[int, int], smallest: float) -> Box:
    """A part of random area and shape (Szegedy et al., CVPR 2015); the largest allowed one where none was found."""
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
