"""scikit-learn's handwritten digits."""

import numpy as np
import torch
from torch import Tensor

from scionet.extras import extra


def digits(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits: four fifths for training, one fifth for validation.

    Args:
        seed: Seed of the split, which is stratified by class.

    Returns:
        Training images, training labels, validation images, validation labels. Images are float32
        ``(count, 1, 8, 8)``, from 0 (paper) to 1 (ink); labels are int64.

    Raises:
        MissingExtra: If scikit-learn is not installed.
    """
    with extra("sklearn"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = (np.asarray(images, dtype=np.float32) / 16).reshape(-1, 1, 8, 8)
    parts = train_test_split(
        pixels, np.asarray(labels, dtype=np.int64), test_size=0.2, random_state=seed, stratify=labels
    )
    train_x, val_x, train_y, val_y = map(torch.from_numpy, parts)
    return train_x, train_y, val_x, val_y
