"""A small experiment for tests: some seconds in all."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import nn

from scionet.bench.experiment.experiment import Experiment
from scionet.bench.runs.workspace import Workspace
from scionet.methods.contract import Ranker, SiteView
from scionet.methods.criteria.unit_scores import score
from scionet.training.execution import Execution

TOML = """
name = "small"
arms = ["as cut", "fine-tuned", "scratch-b"]
seeds = [0, 1]
budgets = ["macs<=60%"]
competitors = ["l1", "random"]
learning_rates = [0.5, 1.0]

[network]
factory = "scionet:digits_cnn"

[data]
source = "digits"
train = 192
calibration = 64
validation = 100
batch_size = 128

[pretraining]
epochs = 1
batch_size = 64
learning_rate = 0.1

[finetuning]
epochs = 1
batch_size = 64

[scratch]
epochs = 1
batch_size = 64
learning_rate = 0.1
"""


def two_stages() -> nn.Module:
    """Another network for digits: three convolutions at 8 x 8 pixels and one at 4 x 4."""
    widths, layers = (1, 24, 24, 24, 48), list[nn.Module]()
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        stride = 2 if place == 3 else 1
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


def one_stage() -> nn.Module:
    """A network whose convolutions all see 8 x 8 pixels."""
    convolutions = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def broken(view: SiteView, rng: np.random.Generator) -> np.ndarray:
    """A score that does not fit."""
    return np.zeros(view.site.width + 1)


def make_broken() -> Ranker:
    return score(broken)


def written(folder: Path, text: str = TOML) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    return path


def make_workspace(folder: Path, text: str = TOML) -> Workspace:
    experiment = Experiment.read(written(folder, text), trust_factory=True)
    return Workspace(experiment, folder, folder / "out", Execution(), "scionet bench run small.toml --out out")
