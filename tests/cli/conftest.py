from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commandline import CLASSES, TEST, TRAIN

from scionet.cli import main
from scionet.models.resnets import resnet20


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures (a pattern for each class, with noise), weights, and a TOML file."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        pattern = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1)))
        for split, count in (("train", TRAIN), ("test", TEST)):
            folder = home / "pictures" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = (pattern + rng.normal(0, 20, pattern.shape)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    torch.manual_seed(0)
    torch.save(resnet20().state_dict(), home / "weights.pt")
    (home / "half.json").write_text('{"layer1.0.conv1": 0.5}')
    (home / "widths.json").write_text('{"layer1.0.conv1": 17}')
    (home / "prune.toml").write_text(
        'model = "scionet:resnet20"\nweights = "weights.pt"\nbudget = "macs<=80%"\ncalibration_images = 16\n'
        'threads = 1\nignored_layers = ["layer3.*"]\n'
        '[pictures]\ndata = "pictures"\nsplit = "train"\npreprocessing = "cifar"\n'
        "[resources]\nbatch_size = 8\npositions = 8\n"
    )
    return home


@pytest.fixture(scope="session")
def pruned(home: Path) -> None:
    """A pruned network, home/half.safetensors."""
    flags = ["--budget", "macs<=60%", "--out", "half.safetensors", "--seed", "3", "--quiet"]
    cheap = ["--method", "l1", "--widths", "uniform", "--repair", "recalibrate"]
    with chdir(home):
        assert main(["prune", "--config", "prune.toml", *flags, *cheap]) == 0


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def untouched(at_home: Path) -> Iterator[None]:
    """The folder has the same files afterwards as before."""
    before = sorted(at_home.iterdir())
    yield
    assert sorted(at_home.iterdir()) == before
