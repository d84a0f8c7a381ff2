"""Grey images with labels, as a map-style data set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scionet.extras import extra

with extra("images"):
    from PIL import Image


@dataclass(frozen=True, eq=False)
class GreyRows:
    """Grey images with labels.

    Attributes:
        images: Shape ``(count, height, width)``.
        labels: Shape ``(count,)``.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """An image and its label."""
        return Image.fromarray(self.images[index]), int(self.labels[index])
