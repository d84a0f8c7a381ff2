"""The pictures and the network of an analysis. Without a network, a small one is trained on the pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scionet.commands import networks
from scionet.commands.analysis_options import AnalysisOptions
from scionet.data.images import Preprocessing
from scionet.data.sampling import sampled
from scionet.data.sources import Batches, read_source
from scionet.errors import InvalidSetting
from scionet.seeds import root, seeded
from scionet.training.fit import fit
from scionet.training.recipes import Recipe

RECIPE = Recipe(epochs=15, batch_size=64, learning_rate=0.1, weight_decay=5e-4, warmup_epochs=1)
"""How the small network is trained."""
HIDDEN = (128, 64)
BATCH_SIZE = 256


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures in memory.

    Attributes:
        images: Float32 ``(count, ...)``.
        labels: Int64 ``(count,)``.
    """

    images: Tensor
    labels: Tensor

    @property
    def classes(self) -> int:
        """Number of classes, from the largest label."""
        return int(self.labels.max()) + 1

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Pairs of images and labels."""
        return list(zip(self.images.split(BATCH_SIZE), self.labels.split(BATCH_SIZE), strict=True))


def read_pictures(options: AnalysisOptions, seed: int) -> Pictures:
    """Sample pictures of the training part of a source.

    Raises:
        InvalidSetting: If the source does not exist, or fewer than two pictures are asked for.
        CalibrationError: If a picture cannot be read, or pictures differ in size.
    """
    if options.pictures < 2:
        raise InvalidSetting(f"an analysis needs 2 pictures or more; given --pictures {options.pictures}")
    prepared = Preprocessing(options.size, options.crop, options.mean, options.std)
    part = read_source(options.source, prepared, options.data, seed).train
    pool, rng = np.arange(part.count), seeded(seed)("analysis", "pictures")
    chosen = sampled(pool, min(options.pictures, part.count), rng, "pictures", options.source)
    inputs, labels = zip(*Batches(part.choose(rng.permutation(chosen), None), BATCH_SIZE), strict=True)
    return Pictures(torch.cat(inputs), torch.cat(labels))


def network_of(command: AnalysisOptions, pictures: Pictures, seed: int) -> tuple[str, nn.Module]:
    """The named network, or a small one that is trained on the pictures; with its name.

    Raises:
        InvalidSetting: If the network is unknown, or weights are given without it.
        CheckpointError: If the weights cannot be read or do not fit.
        MissingExtra: If a package is not installed.
    """
    if command.model is None:
        if command.weights is not None or command.model_args:
            raise InvalidSetting("--weights and --model-args are those of a network; give it with --model")
        return _small_name(pictures), trained_network(pictures, seed)
    return command.model, networks.dense(command.model, networks.keywords(command.model_args), command.weights).eval()


def small_network(inputs: int, classes: int, seed: int, hidden: Sequence[int] = HIDDEN) -> nn.Sequential:
    """Hidden layers of ReLUs, with new weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(root(seed, "analysis", "network"))
        maps = [nn.Linear(before, after) for before, after in pairwise((inputs, *hidden, classes))]
    layers = [layer for each in maps[:-1] for layer in (each, nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, maps[-1])


def trained_network(
    pictures: Pictures, seed: int, recipe: Recipe = RECIPE, hidden: Sequence[int] = HIDDEN
) -> nn.Module:
    """A small network, trained on the pictures."""
    model = small_network(pictures.images[0].numel(), pictures.classes, seed, hidden)
    fit(model, TensorDataset(pictures.images, pictures.labels), recipe, seed=seed, progress=False)
    return model.eval()


def refuse_overwriting(command: AnalysisOptions) -> None:
    """Look at the folder of the results.

    Raises:
        InvalidSetting: If it holds an earlier record and `overwrite` is off, or is a file.
    """
    path = command.out / "record.json"
    if command.out.is_file():
        raise InvalidSetting(f"cannot write into {command.out}: it is a file; give a folder")
    if path.exists() and not command.overwrite:
        raise InvalidSetting(f"{path} exists; give another folder, or --overwrite to replace it")


def described(command: AnalysisOptions, seed: int) -> str:
    """The options that repeat an analysis, without paths of this machine."""
    model = "" if command.model is None else f" --model {command.model}"
    return f"--source {command.source.partition(':')[0]}{model} --pictures {command.pictures} --seed {seed}"


def _small_name(pictures: Pictures) -> str:
    sizes = (pictures.images[0].numel(), *HIDDEN, pictures.classes)
    return f"a network of {'-'.join(map(str, sizes))} units, trained on the pictures"
