"""Preprocessing of images: from the bytes of a file, which may be hostile, to a network's input."""

from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from threading import Lock
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scionet.errors import CalibrationError, InvalidSetting, unknown
from scionet.extras import extra

with extra("images"):
    from PIL import Image

Pixels = NDArray[np.uint8]
"""One image, shape ``(height, width, channels)``, or several of one size, ``(count, height, width, channels)``.
There are three channels (RGB) or one (grey)."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of ImageNet, for pixels scaled to 0..1."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Formats that are read, whatever a file is called. Pillow knows others that start programs, such as Ghostscript."""
MAX_FILE_BYTES = 2**27
"""Size of a picture's file, unpacked."""
MAX_PIXELS = 62_000_000
"""Width times height of a picture in its file. Each of the formats is then decoded in less than 1 GB."""
MAX_RESIZED_PIXELS = 2**24
"""Width times height after the resize, before the crop."""

_LARGE = 2**23
_one_large = Lock()
"""Pictures of more pixels than `_LARGE` are decoded one at a time, however many threads there are."""
_MODES = {1: "L", 3: "RGB"}
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of an image: resize, centre crop, scale to 0..1, normalise.

    `mean` and `std` have one value per channel, for pixels scaled to 0..1. Three values make every image RGB, one value
    makes it grey. Without values, an image keeps its channels: one channel stays in 0..1, and RGB is normalised by the
    statistics of ImageNet. Files of image folders are always read as RGB first, because folders mix both kinds.

    Attributes:
        size: Length in pixels to which the shorter side is resized; None does not resize.
        crop: Side in pixels of the centre crop; None does not crop.
        mean: Mean of each channel; None for the default of the number of channels.
        std: Standard deviation of each channel; None for the default of the number of channels.
        interpolation: Filter of the resize.
    """

    size: int | None = None
    crop: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        """Check sizes and deviations.

        Raises:
            InvalidSetting: If a size or a deviation is not positive, the crop is larger than the resized image, mean or
                std has neither one nor three values, or the interpolation is unknown.
        """
        if any(side is not None and side < 1 for side in (self.size, self.crop)):
            raise InvalidSetting(f"size and crop must be at least 1 pixel; given {self.size} and {self.crop}")
        if self.size is not None and self.crop is not None and self.crop > self.size:
            raise InvalidSetting(f"crop must be at most size; crop {self.crop} is larger than size {self.size}")
        counts = {len(values) for values in (self.mean, self.std) if values is not None}
        if len(counts) > 1 or not counts <= {1, 3}:
            raise InvalidSetting(
                f"mean and std have three values each (RGB) or one (grey); given {self.mean} and {self.std}"
            )
        if self.std is not None and min(self.std) <= 0:
            raise InvalidSetting(f"std must be positive in every channel; given {self.std}")
        if self.interpolation not in _FILTERS:
            raise unknown("interpolation", self.interpolation, _FILTERS)

    def pixels(self, data: bytes) -> Pixels:
        """Decode, resize and crop one image.

        Raises:
            CalibrationError: If the bytes are not an image, or the image is too large, or smaller than the crop.
        """
        return pixels_of(self.framed(decode(data)))

    def coloured(self, image: Image.Image) -> Image.Image:
        """Convert to the number of channels that `mean` and `std` ask for."""
        values = self.mean or self.std
        mode = image.mode if values is None else _MODES[len(values)]
        return image if image.mode == mode else image.convert(mode)

    def framed(self, image: Image.Image) -> Image.Image:
        """Convert the channels, resize and crop.

        Raises:
            CalibrationError: If the image is smaller than the crop, or would have more than `MAX_RESIZED_PIXELS`.
        """
        width, height = image.size if self.size is None else _scaled(image.size, self.size)
        if width * height > MAX_RESIZED_PIXELS:
            raise CalibrationError(
                f"it would be {width:,} x {height:,} pixels after the resize, more than {MAX_RESIZED_PIXELS:,} in all"
            )
        image = self.coloured(image)
        if self.size is not None:
            image = image.resize((width, height), self.filter)
        return image if self.crop is None else image.crop(_centre(image.size, self.crop))

    @property
    def filter(self) -> Image.Resampling:
        """The Pillow filter of the resize."""
        return _FILTERS[self.interpolation]

    def tensor(self, pixels: Pixels) -> Tensor:
        """Scale and normalise: uint8 ``(batch, height, width, channels)`` to float32 ``(batch, channels, ...)``."""
        planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float()
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) * 255 for values in self.statistics(pixels.shape[-1]))
        return planes.sub_(mean).div_(std)

    def statistics(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, for images of 1 or 3 channels."""
        mean, std = ((0.0,), (1.0,)) if channels == 1 else (IMAGENET_MEAN, IMAGENET_STD)
        return self.mean or mean, self.std or std


def pixels_of(image: Image.Image) -> Pixels:
    """The pixels of an image in mode L or RGB."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def decode(data: bytes) -> Image.Image:
    """Decode an image of one of `FORMATS` to RGB.

    Raises:
        CalibrationError: If the bytes are not such an image, or it has more than `MAX_PIXELS`.
    """
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height <= MAX_PIXELS:
            with _one_large if width * height > _LARGE else nullcontext():
                image.load()
                return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # of hostile bytes, Pillow's readers raise whatever they stumble over
        raise CalibrationError(f"not a readable image ({error or type(error).__name__})") from error
    raise CalibrationError(f"it has {width:,} x {height:,} pixels, more than {MAX_PIXELS:,} in all")


def _scaled(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height after resizing the shorter side to `shorter`; the longer is rounded down as in torchvision."""
    width, height = size
    if width <= height:
        return shorter, shorter * height // width
    return shorter * width // height, shorter


def _centre(size: tuple[int, int], crop: int) -> tuple[int, int, int, int]:
    """The box of the centre crop, rounded as in torchvision.

    Raises:
        CalibrationError: If the crop is larger than the image.
    """
    width, height = size
    if crop > min(size):
        raise CalibrationError(f"it is {width} x {height} pixels, smaller than the crop of {crop}")
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    return left, top, left + crop, top + crop
