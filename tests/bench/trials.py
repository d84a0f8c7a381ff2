"""A small experiment for tests: some seconds in all."""

from pathlib import Path

from scionet.bench.experiment import Experiment
from scionet.bench.workshop import Workshop
from scionet.training.execution import Execution

TOML = """
name = "small"
arms = ["as cut", "fine-tuned", "scratch-b"]
seeds = [0, 1]
budgets = ["macs<=60%"]
contestants = ["l1", "random"]
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


def written(folder: Path, text: str = TOML) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    return path


def workshop(folder: Path, text: str = TOML) -> Workshop:
    experiment = Experiment.read(written(folder, text))
    return Workshop(experiment, folder, folder / "out", Execution(), "scionet bench run small.toml --out out")
