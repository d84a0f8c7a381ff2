"""The options of the analyses that measure theory on a source of pictures: frozen dataclasses, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scionet.commands.options import Common

RatesPart = Literal["planted", "scratch", "random", "pretraining", "sites"]


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """Labelled pictures, a network, and the folder for the results."""

    out: Path
    """Folder for the record, the figure and the page; created if it does not exist."""
    source: str = "digits"
    """Labelled pictures: digits, idx:FOLDER, csv:FILE, images:FOLDER, or another source of an experiment."""
    data: Path = Path()
    """Folder that the source's paths are relative to."""
    pictures: int = 1024
    """Pictures sampled at random from the training part; all if there are fewer."""
    size: int | None = None
    """Pixels to which the shorter side of a picture is resized."""
    crop: int | None = None
    """Side in pixels of the square taken from the centre."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, for pixels scaled to 0..1: three values for RGB, one to make pictures grey."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel."""
    model: str | None = None
    """A trained network: timm:NAME, ..., package.module:function. By default a small one is trained on the pictures."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or a state dict written by torch.save."""
    model_args: tuple[str, ...] = ()
    """Arguments of the factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    overwrite: bool = False
    """Replace the results of an earlier analysis in the folder."""


@dataclass(frozen=True, kw_only=True)
class RatesOptions(AnalysisOptions):
    """Options of `scionet analyze rates`."""

    parts: tuple[RatesPart, ...] = ("planted", "scratch", "random", "pretraining", "sites")
    """What to measure: planted problems; pruned networks and networks trained from scratch; random networks; training
    needed before pruning; sites of the network."""
    sites: tuple[str, ...] = ()
    """Sites of the network, or patterns such as "layer3.*"; by default up to three of at most 256 units."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeRates(Common, RatesOptions):
    """Measure how fast greedy selection approaches its target, and compare it with the theorems."""


@dataclass(frozen=True, kw_only=True)
class LimitOptions(AnalysisOptions):
    """Options of `scionet analyze limit`."""

    tolerance: str = "batch_std"
    """By how much the training loss may rise: a number, a part of the loss such as 5%, or batch_std, the standard
    deviation of the loss over batches of 128 pictures."""
    parameters: tuple[str, ...] = ()
    """Parameters that the Hessian covers, or patterns such as "layer3.*"; by default the weights of linear maps and
    convolutions, which are those that can be removed."""
    spectrum: Literal["lanczos", "exact", "trace"] = "lanczos"
    """How the eigenvalues of the Hessian are found: Lanczos quadrature, all of them, or only their mean."""
    steps: int = 128
    """Steps of Lanczos, each with one product with the Hessian."""
    probes: int = 1
    """Random vectors of Lanczos or of the trace."""
    negatives: Literal["absolute", "flat"] = "absolute"
    """Negative eigenvalues count with their absolute value, or as flat directions."""
    l1_weights: tuple[float, ...] = (0.0, 5e-4)
    """Without --model: weights of the L1 penalty, each for one small network."""
    measure: tuple[Literal["one-shot", "reoptimised"], ...] = ("one-shot", "reoptimised")
    """What to measure beside the prediction: pruning at once, or with the kept weights optimised again."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeLimit(Common, LimitOptions):
    """Predict from the curvature of the loss how many weights can be removed, and measure it."""


@dataclass(frozen=True, kw_only=True)
class ValleyOptions(AnalysisOptions):
    """Options of `scionet analyze valley`."""

    second: Path | None = None
    """Weights of the network at the other end: a .safetensors file, one of scionet mask included, or a state dict. By
    default masked and fine-tuned networks of the small one, and one of another training."""
    points: int = 21
    """Points of each segment, with both ends."""
    recalibrate: bool = False
    """Measure the statistics of BatchNorms again at every point between the ends."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeValley(Common, ValleyOptions):
    """Measure the loss along the segment between two sets of weights: one valley, or a barrier in between?"""
