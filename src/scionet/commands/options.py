"""What can be said on the command line or in a TOML file, as frozen dataclasses without torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import tyro

from scionet.errors import InvalidSetting
from scionet.settings import BackendName, SweepSettings
from scionet.training.execution import Execution
from scionet.training.recipes import Recipe

PresetName = Literal["imagenet", "efficientnet_lite", "cifar"]
SettingsKind = TypeVar("SettingsKind", bound=SweepSettings)
RecipeKind = TypeVar("RecipeKind", bound=Recipe)


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command understands."""

    config: Path | None = None
    """A TOML file with values for these flags; flags given here override it."""
    seed: int = 0
    """Root of all randomness: which pictures are drawn, and what a method leaves to chance."""
    threads: int | None = None
    """Threads that torch may use; all by default."""
    quiet: bool = False
    """No progress bars and no advice; only results, warnings and errors."""
    debug: bool = False
    """Show where an error comes from (the traceback)."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidSetting: If the seed is negative or there is no thread.
        """
        if self.seed < 0 or (self.threads is not None and self.threads < 1):
            raise InvalidSetting(f"seed is 0 or more, threads 1 or more; given {self.seed} and {self.threads}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the pictures are, and how they become a network's input."""

    data: Path
    """A folder or zip file of pictures, laid out as [split/]class/name.jpg; sorted class names are labels 0, 1, ..."""
    split: str | None = None
    """The folder above the classes, such as train; none where the classes stand at the top."""
    preprocessing: PresetName | None = None
    """imagenet (resize to 256, crop 224), efficientnet_lite (the same, bicubic), or cifar (pictures as they are)."""
    size: int | None = None
    """Pixels to which the shorter side is resized."""
    crop: int | None = None
    """Side in pixels of the square taken from the centre."""
    mean: tuple[float, float, float] | None = None
    """Mean of each channel, for pixels scaled to 0..1."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of each channel."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Filter of the resize."""


@dataclass(frozen=True, kw_only=True)
class Pictures(Source):
    """Pictures, and how many at once."""

    batch_size: int = 128
    """Pictures that the network sees at once."""


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """Train a small network on handwritten digits, prune it by every method, and show the results on one HTML page."""

    out: Path = Path("scionet-demo")
    """Folder for the page, the records and the pruned networks."""
    open_browser: bool = False
    """Open the page when it is done."""


@dataclass(frozen=True, kw_only=True)
class Prune(Common, Generic[SettingsKind]):
    """Make a smaller network out of a trained one, without training.

    The settings at the end are those of the chosen method; for another one see `scionet prune --method NAME --help`.
    """

    model: str
    """The trained network: timm:NAME, torchvision:NAME, scionet:NAME, or package.module:function."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or a state dict written by torch.save."""
    model_args: tuple[str, ...] = ()
    """Arguments of the factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    budget: str | None = None
    """What may remain: "macs<=50%", "params<=1.2M", "latency<=60%", or several joined by a comma; none with a
    tolerance."""
    latency_table: Path | None = None
    """Measured times of the network's operations, for a budget on latency: a .json file, which is read if it exists and
    otherwise measured and written."""
    latency_batch: int = 1
    """A budget on latency is about one forward pass of this many pictures."""
    method: str = "forward"
    """forward (greedy forward selection), or a baseline: l1, bn_scale, energy, synflow, taylor, random, ..."""
    calibration_images: int = 2048
    """Pictures drawn from the data to see what the network computes. Labels are used by --objective loss,
    and by methods with gradients of the loss, such as taylor, snip and grasp."""
    ignored_layers: tuple[str, ...] = ()
    """Layers whose channels all stay: names, or globs such as "layer4.*"."""
    out: Path
    """Where the pruned network goes: a .safetensors file."""
    overwrite: bool = False
    """Replace the file if it exists."""
    evaluate_split: str | None = None
    """Evaluate the dense and the pruned network on this split afterwards."""
    evaluate_rest: bool = False
    """Evaluate both on the pictures that were not drawn for calibration."""
    evaluate_images: int | None = None
    """Evaluate on this many pictures, drawn at random; all by default."""
    pictures: Pictures
    settings: SettingsKind


@dataclass(frozen=True, kw_only=True)
class Finetune(Common, Generic[RecipeKind]):
    """Train a pruned network, and go on after an interruption when the same command is given again.

    The settings at the end are those of the chosen recipe; for another one see `scionet finetune --recipe NAME --help`.
    """

    pruned: Path
    """A pruned network, written by `scionet prune` or this command."""
    model: str | None = None
    """The dense network's factory, where the file names none: timm:NAME, ..., package.module:function."""
    model_args: tuple[str, ...] = ()
    """Arguments of this factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    trust_factory: bool = False
    """Run a package.module:function that the pruned file names as its factory; it may be any code."""
    teacher_weights: Path | None = None
    """Weights of the dense network, which then teaches; goes with --teacher-weight or --features."""
    recipe: str = "finetune"
    """How to train: finetune, mobilenet_finetune, mobilenet_closing, rethinking_cifar, rethinking_cifar_finetune,
    rethinking_imagenet, or rethinking_imagenet_finetune."""
    train_images: int | None = None
    """Pictures drawn from the data to learn from; by default all but the validation pictures."""
    validation_images: int = 0
    """Pictures kept apart from the others, to measure the accuracy after every epoch; --patience needs some."""
    out: Path
    """Where the trained network goes: a .safetensors file."""
    overwrite: bool = False
    """Replace the file if it exists."""
    restart: bool = False
    """Begin anew where an interrupted training could go on."""
    evaluate_split: str | None = None
    """Evaluate the network on this split, before and after."""
    evaluate_rest: bool = False
    """Evaluate it on the pictures that were drawn neither to learn from, nor to validate, nor for calibration."""
    evaluate_images: int | None = None
    """Evaluate on this many pictures, drawn at random; all by default."""
    pictures: Source
    settings: RecipeKind
    execution: Execution = field(default_factory=Execution)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common):
    """Measure the accuracy and the cost of a network, pruned or dense."""

    pruned: Path | None = None
    """A pruned network, written by `scionet prune`."""
    model: str | None = None
    """A dense network, or what makes that of a pruned file: timm:NAME, torchvision:NAME, scionet:NAME, or
    package.module:function."""
    weights: Path | None = None
    """Weights of the dense network: a .safetensors file, or a state dict written by torch.save."""
    model_args: tuple[str, ...] = ()
    """Arguments of the factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    trust_factory: bool = False
    """Run a package.module:function that the pruned file names as its factory; it may be any code."""
    images: int | None = None
    """Evaluate on this many pictures, drawn at random; all by default."""
    exclude_calibration_of: Path | None = None
    """A pruned network; leave out the pictures that were drawn to calibrate or to train it."""
    bf16: bool = False
    """Compute in bfloat16 where torch's autocast does: quicker, and slightly different."""
    latency: bool = False
    """Time forward passes of one picture, too."""
    json: Path | None = None
    """Write the results to this file, for programs to read."""
    overwrite: bool = False
    """Replace the file if it exists."""
    pictures: Pictures


@dataclass(frozen=True, kw_only=True)
class Export(Common):
    """Write a pruned network for other runtimes, and check that it computes the same there."""

    pruned: Path
    """A pruned network, written by `scionet prune`."""
    to: Path
    """The file to write; its suffix chooses the format: .onnx, or .pt2 (torch.export)."""
    model: str | None = None
    """The dense network's factory, where the file names none: timm:NAME, ..., package.module:function."""
    model_args: tuple[str, ...] = ()
    """Arguments of this factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    trust_factory: bool = False
    """Run a package.module:function that the pruned file names as its factory; it may be any code."""
    input_shape: tuple[int, ...] | None = None
    """Shape of one input without the batch, such as 3 224 224; recorded in the pruned file by default."""
    overwrite: bool = False
    """Replace the file if it exists."""


@dataclass(frozen=True, kw_only=True)
class Analyze(Common):
    """Measure what theory says of scores: where they empty layers, or the identities of gradient flow."""

    what: tyro.conf.Positional[Literal["collapse", "gradient-flow"]]
    """collapse: single weights are masked to each compression by each score; gradient-flow: rates of change of norm,
    loss and gradient under gradient flow, predicted and measured, and how well scores of units foretell removals."""
    model: str
    """The network, trained or fresh: timm:NAME, torchvision:NAME, scionet:NAME, or package.module:function."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or a state dict written by torch.save; those of the factory by default."""
    model_args: tuple[str, ...] = ()
    """Arguments of the factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    images: int = 64
    """Labelled pictures, drawn at random, on which the loss is measured."""
    scores: tuple[str, ...] = ("magnitude", "random", "snip", "synflow")
    """collapse: scores of single weights."""
    compressions: tuple[float, ...] = (10.0, 31.6, 100.0, 316.0, 1000.0)
    """collapse: weights of the network per weight kept."""
    methods: tuple[str, ...] = ()
    """gradient-flow: scores of units, such as l1, loss_preservation and grasp, to correlate with the change of the
    loss when a unit is taken away; that takes a pass over the pictures per unit."""
    batch_norms: bool = False
    """gradient-flow: BatchNorms take the statistics of each batch, as in training."""
    json: Path | None = None
    """Write the results to this file, for programs to read."""
    plot: Path | None = None
    """collapse: draw the curves to this .svg file."""
    overwrite: bool = False
    """Replace the files if they exist."""
    pictures: Pictures


@dataclass(frozen=True, kw_only=True)
class BenchRun(Common):
    """Do all runs of an experiment that are neither done nor failed; several commands may share one folder."""

    experiment: tyro.conf.Positional[Path]
    """The experiment: a TOML file, such as benchmarks/configs/smoke.toml."""
    out: Path
    """Folder of the records, the networks and the work in progress; made if need be."""
    data: Path = Path()
    """Folder that the experiment's data and weights are relative to."""
    jobs: int = 1
    """Runs at a time. Each gets an even share of the processors, or as many threads as --threads says."""
    backend: BackendName = "loky"
    """Where the runs are done: loky (processes of this machine), ray or dask (a cluster), threading, sequential."""
    retry: bool = False
    """Try failed runs once more."""
    execution: Execution = field(default_factory=Execution)


@dataclass(frozen=True, kw_only=True)
class BenchStatus(Common):
    """Show where every run of an experiment stands."""

    experiment: tyro.conf.Positional[Path]
    """The experiment: a TOML file."""
    out: Path
    """Folder of its records."""
    data: Path = Path()
    """Folder that the experiment's data and weights are relative to."""


@dataclass(frozen=True, kw_only=True)
class BenchReport(BenchStatus):
    """Write the report of what is done: report.html, table.md and table.csv in the folder."""

    headline: str | None = None
    """The method to bring out, by the name that tables give it; by default the forward selection that loses least."""


@dataclass(frozen=True, kw_only=True)
class BenchPack(Common):
    """Collect the records of a folder in one file: checked, sorted and with a checksum, ready to be committed."""

    folder: tyro.conf.Positional[Path]
    """A folder of records, one JSON file per run, such as `records` in the folder of an experiment."""
    out: Path | None = None
    """The packed file; by default FOLDER.jsonl beside the folder. Records that are in it already stay in it."""
