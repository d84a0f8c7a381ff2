"""Labelled pictures as a regression task for two-layer networks."""

import numpy as np

from scionet.analysis.rates.two_layer import Task
from scionet.errors import InvalidSetting
from scionet.typing import FloatArray, IntArray

SQUARED_LENGTH = 4.0
"""Mean squared length of an input, as that of the random tasks."""


def picture_task(pictures: FloatArray, labels: IntArray) -> Task:
    """Inputs without their mean and of a common scale; targets are the indicators of the classes without their mean.

    Args:
        pictures: Shape ``(m, ...)``.
        labels: Class of each picture, shape ``(m,)``.

    Raises:
        InvalidSetting: If there is only one class, or all pictures are alike.
    """
    inputs = np.asarray(pictures, dtype=np.float64).reshape(len(pictures), -1)
    inputs = inputs - inputs.mean(axis=0)
    length = float((inputs**2).sum(axis=1).mean())
    classes = np.unique(labels)
    if len(classes) < 2 or length == 0:
        raise InvalidSetting("the pictures must differ and belong to two classes or more; give other data")
    targets = (np.asarray(labels)[:, None] == classes).astype(np.float64)
    return Task(inputs * np.sqrt(SQUARED_LENGTH / length), targets - targets.mean(axis=0))


def two_groups(task: Task) -> Task:
    """The same inputs with one target: +1 for the first half of the classes, −1 for the others, without its mean."""
    half = task.targets.shape[1] // 2
    group = np.where(task.targets.argmax(axis=1) < half, 1.0, -1.0)[:, None]
    return Task(task.inputs, group - group.mean())
