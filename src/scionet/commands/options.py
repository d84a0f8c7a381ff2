"""The options of all commands, on the command line or in a TOML file: frozen dataclasses, without torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import tyro

from scionet.choices.checking import Count
from scionet.choices.depth import BranchDamage, BranchElimination, BranchScores
from scionet.choices.methods import (
    Average,
    CandidatesName,
    LeastSquares,
    LineSearch,
    ObjectiveName,
    OutputImitation,
    Stochastic,
    TaskLoss,
)
from scionet.choices.outputs import MetricName
from scionet.choices.repair import Reconstruct, Refit, RepairName
from scionet.choices.resources import BackendName, Resources
from scionet.choices.search import ArchitectureSearch
from scionet.choices.shrinking import (
    Directional,
    GReg1,
    GReg2,
    IncReg,
    ShrinkingName,
    Slimming,
    SoftFilters,
    SparseStructures,
)
from scionet.choices.widths import Sensitivity, WidthsName
from scionet.errors import InvalidSetting
from scionet.training.execution import Execution
from scionet.training.recipes import Recipe

PresetName = Literal["imagenet", "efficientnet_lite", "cifar"]
RecipeKind = TypeVar("RecipeKind", bound=Recipe)


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command."""

    config: Path | None = None
    """A TOML file with values for these flags; flags given here override it."""
    seed: int = 0
    """Root of all randomness: the sampled pictures, and random choices of methods."""
    threads: int | None = None
    """Threads that torch may use; all by default."""
    trust_factory: bool = False
    """Run a package.module:function that a file names, a pruned network or a TOML file; it may be any code. This option
    itself is never read from a file."""
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
    """The folder of pictures, and their preprocessing."""

    data: Path
    """A folder or zip file of pictures, laid out as [split/]class/name.jpg; sorted class names are labels 0, 1, ..."""
    split: str | None = None
    """The folder that contains the classes, such as train; leave it out if --data itself contains them."""
    preprocessing: PresetName | None = None
    """imagenet (resize to 256, crop 224), efficientnet_lite (the same, bicubic), or cifar (pictures as they are)."""
    size: int | None = None
    """Pixels to which the shorter side is resized."""
    crop: int | None = None
    """Side in pixels of the square taken from the centre."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, for pixels scaled to 0..1: three values for RGB, one to make pictures grey."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Filter of the resize."""


@dataclass(frozen=True, kw_only=True)
class Pictures(Source):
    """Pictures, and the batch size."""

    batch_size: int = 128
    """Pictures in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """Train a small network on handwritten digits, prune it by every method, and show the results on one HTML page."""

    out: Path = Path("scionet-demo")
    """Folder for the page, the records and the pruned networks."""
    open_browser: bool = False
    """Open the page when it is done."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Pictures on which the network is evaluated before and after; none by default."""

    evaluate_split: str | None = None
    """Evaluate on this split."""
    evaluate_rest: bool = False
    """Evaluate on the pictures that were sampled neither for calibration nor for training or validation."""
    evaluate_images: int | None = None
    """Evaluate on this many of them, sampled at random; all by default."""


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """For a budget that limits latency: the network's operations are timed on this machine."""

    latency_table: Path | None = None
    """A .json file of measured times: read if it exists, otherwise measured and written."""
    latency_batch: int = 1
    """Batch size of the forward pass that the limit applies to."""


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Options of `scionet prune`, the most common ones first."""

    model: str
    """The trained network: timm:NAME, torchvision:NAME, scionet:NAME, or package.module:function."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or a state dict written by torch.save."""
    budget: str | None = None
    """Limits on the pruned network: "macs<=50%", "params<=1.2M", "latency<=60%", or several joined by a comma."""
    out: Path
    """File for the pruned network, ending in .safetensors."""
    method: str = "forward"
    """How units are chosen: forward (greedy forward selection), or a score such as l1, bn_scale, energy or taylor."""
    objective: ObjectiveName = "least_squares"
    """Method forward: the objective that each picked unit improves most. The options of each objective are below."""
    candidates: CandidatesName = "exact"
    """Method forward: evaluate every remaining unit at each step, or a random sample."""
    widths: WidthsName | Path | None = None
    """How the budget is divided among the layers: by default sensitivity, or uniform if the objective evaluates the
    whole network. A .json file of layer names and numbers of units takes the place of the budget."""
    depth: tuple[str, ...] = ()
    """Residual branches to drop: their names, such as layer1.1 layer3.4, or a rule that chooses them: branch_damage,
    branch_elimination or branch_scores."""
    repair: tuple[RepairName, ...] = ("refit",)
    """Steps that repair the weights, in this order; --repair without a name for none."""
    calibration_images: int = 2048
    """Pictures sampled at random to calibrate on. Labels are used only by methods that need them."""
    round_to: Count = 1
    """Kept widths are multiples of this; 8 suits most hardware."""
    min_units: Count = 1
    """The fewest units that a layer keeps."""
    ignored_layers: tuple[str, ...] = ()
    """Layers whose channels all stay: names, or globs such as "layer4.*"."""
    passes: Count = 1
    """Walks through the network. Each one after the first selects every layer again, given the kept units of others."""
    outputs: MetricName | None = None
    """How a change of the outputs is measured. By default kl for class scores, squared otherwise."""
    model_args: tuple[str, ...] = ()
    """Arguments of the factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    overwrite: bool = False
    """Replace the output file if it exists."""
    pictures: tyro.conf.OmitArgPrefixes[Source]
    evaluation: tyro.conf.OmitArgPrefixes[Evaluation] = field(default_factory=Evaluation)
    latency: tyro.conf.OmitArgPrefixes[LatencyOptions] = field(default_factory=LatencyOptions)
    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    branch_damage: BranchDamage = field(default_factory=BranchDamage)
    branch_elimination: BranchElimination = field(default_factory=BranchElimination)
    branch_scores: BranchScores = field(default_factory=BranchScores)
    refit: Refit = field(default_factory=Refit)
    reconstruct: Reconstruct = field(default_factory=Reconstruct)
    least_squares: LeastSquares = field(default_factory=LeastSquares)
    line_search: LineSearch = field(default_factory=LineSearch)
    average: Average = field(default_factory=Average)
    task_loss: TaskLoss = field(default_factory=TaskLoss)
    output_imitation: OutputImitation = field(default_factory=OutputImitation)
    stochastic: Stochastic = field(default_factory=Stochastic)
    resources: tyro.conf.OmitArgPrefixes[Resources] = field(default_factory=Resources)


@dataclass(frozen=True, kw_only=True)
class Prune(Common, PruneOptions):
    """Make a smaller network out of a trained one, without training."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Generic[RecipeKind]):
    """Options of `scionet finetune`."""

    pruned: Path
    """A pruned network, written by `scionet prune` or this command; or one with masks, by `scionet mask`, whose masked
    weights stay zero and which needs --model."""
    model: str | None = None
    """The dense network's factory, where the file names none: timm:NAME, ..., package.module:function."""
    model_args: tuple[str, ...] = ()
    """Arguments of this factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    teacher_weights: Path | None = None
    """Weights of the dense network, which is then the teacher; needed by --teacher-weight and --features."""
    recipe: str = "finetune"
    """Recipe: finetune, mobilenet_finetune, mobilenet_closing, rethinking_cifar, rethinking_cifar_finetune,
    rethinking_imagenet, or rethinking_imagenet_finetune."""
    train_images: int | None = None
    """Pictures sampled from the data to learn from; by default all but the validation pictures."""
    validation_images: int = 0
    """Pictures held out to measure the accuracy on after every epoch; --patience needs some."""
    out: Path
    """File for the trained network, ending in .safetensors."""
    overwrite: bool = False
    """Replace the file if it exists."""
    restart: bool = False
    """Start again from the pruned network, even if an interrupted training could be resumed."""
    pictures: tyro.conf.OmitArgPrefixes[Source]
    evaluation: tyro.conf.OmitArgPrefixes[Evaluation] = field(default_factory=Evaluation)
    settings: tyro.conf.OmitArgPrefixes[RecipeKind]
    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)


@dataclass(frozen=True, kw_only=True)
class Finetune(Common, FinetuneOptions[RecipeKind]):
    """Train a pruned network. The same command resumes an interrupted training.

    The settings at the end are those of the chosen recipe; for another one see `scionet finetune --recipe NAME --help`.
    """


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Options of `scionet mask`."""

    model: str
    """The network, trained or not: timm:NAME, torchvision:NAME, scionet:NAME, or package.module:function."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or a state dict written by torch.save; those of the factory by default."""
    density: float
    """Fraction of the weights that is kept, in (0, 1]."""
    out: Path
    """File for the network with its masks, ending in .safetensors."""
    score: str = "magnitude"
    """Score of single weights: magnitude, random, lamp, synflow, snip, grasp, biased_loss, gradient_preservation, obd,
    woodfisher, or mfac."""
    rounds: Count | None = None
    """Rounds of scoring and masking; by default those of the score: 100 for synflow, 1 for the others."""
    shape: Literal["exponential", "polynomial", "telescoping"] = "exponential"
    """How the density falls from round to round."""
    scope: Literal["global", "isomorphic", "local"] = "global"
    """Which weights compete: those of the whole network, of layers with equal role and shape, or of each layer."""
    min_per_layer: int = 0
    """The fewest weights that a layer keeps."""
    ignored_layers: tuple[str, ...] = ()
    """Layers that stay whole: names, or globs such as "layer4.*"."""
    images: Count = 256
    """Labelled pictures, sampled at random, for scores that use labels."""
    model_args: tuple[str, ...] = ()
    """Arguments of the factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    overwrite: bool = False
    """Replace the file if it exists."""
    pictures: tyro.conf.OmitArgPrefixes[Pictures]


@dataclass(frozen=True, kw_only=True)
class Mask(Common, MaskOptions):
    """Mask single weights of a network. `scionet finetune` keeps them at zero."""


@dataclass(frozen=True, kw_only=True)
class ShrinkOptions(Generic[RecipeKind]):
    """Options of `scionet shrink`, the most common ones first."""

    model: str
    """The network, trained or not: timm:NAME, torchvision:NAME, scionet:NAME, or package.module:function."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or a state dict written by torch.save; those of the factory by default."""
    budget: str | None = None
    """Limits on the cut network: "macs<=50%", "params<=1.2M", or several joined by a comma."""
    out: Path
    """File for the cut network, ending in .safetensors."""
    method: ShrinkingName = "increg"
    """How the network shrinks. The options of each method are below."""
    recipe: str = "finetune"
    """Recipe: finetune, mobilenet_finetune, mobilenet_closing, rethinking_cifar, rethinking_cifar_finetune,
    rethinking_imagenet, or rethinking_imagenet_finetune."""
    widths: WidthsName | Path | None = None
    """How the budget is divided among the layers: by default one density for all, or one threshold for all units where
    the method finds the widths. A .json file of layer names and numbers of units takes the place of the budget."""
    towards: str | None = None
    """The units to keep, chosen before the training by a method of scionet prune, such as forward; or a pruned network
    of the same model, ending in .safetensors, whose units stay. By default the method's own ranking."""
    train_images: int | None = None
    """Pictures sampled from the data to learn from; by default all but the validation pictures."""
    validation_images: int = 0
    """Pictures held out to measure the accuracy on after every epoch."""
    round_to: Count = 1
    """Kept widths are multiples of this; 8 suits most hardware."""
    min_units: Count = 1
    """The fewest units that a layer keeps."""
    ignored_layers: tuple[str, ...] = ()
    """Layers whose channels all stay: names, or globs such as "layer4.*"."""
    model_args: tuple[str, ...] = ()
    """Arguments of the factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    overwrite: bool = False
    """Replace the file if it exists."""
    restart: bool = False
    """Start again, even if an interrupted training could be resumed."""
    pictures: tyro.conf.OmitArgPrefixes[Source]
    evaluation: tyro.conf.OmitArgPrefixes[Evaluation] = field(default_factory=Evaluation)
    slimming: Slimming = field(default_factory=Slimming)
    sparse_structures: SparseStructures = field(default_factory=SparseStructures)
    soft_filters: SoftFilters = field(default_factory=SoftFilters)
    increg: IncReg = field(default_factory=IncReg)
    greg1: GReg1 = field(default_factory=GReg1)
    greg2: GReg2 = field(default_factory=GReg2)
    directional: Directional = field(default_factory=Directional)
    settings: tyro.conf.OmitArgPrefixes[RecipeKind]
    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)


@dataclass(frozen=True, kw_only=True)
class Shrink(Common, ShrinkOptions[RecipeKind]):
    """Train a network so that it shrinks, and cut it. The same command resumes an interrupted training.

    The settings at the end are those of the chosen recipe; for another one see `scionet shrink --recipe NAME --help`.
    """


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Generic[RecipeKind]):
    """Options of `scionet search`, the most common ones first."""

    model: str
    """The full network: a chain of convolutions such as scionet:vgg16, or a residual network of scionet's blocks, such
    as scionet:resnet20_projection."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or a state dict written by torch.save. With them it is the teacher."""
    budget: str
    """The limit on MACs, such as "macs<=50%"."""
    out: Path
    """File for the network that is found, ending in .safetensors; its widths and depths are also in a .config file
    beside it, in the form of the official code."""
    recipe: str = "finetune"
    """Recipe of the search: finetune, mobilenet_finetune, mobilenet_closing, rethinking_cifar,
    rethinking_cifar_finetune, rethinking_imagenet, or rethinking_imagenet_finetune."""
    train_epochs: float | None = None
    """Epochs for which the network that is found is trained, with the other settings of the recipe; by default as many
    as the search has."""
    distillation: float = 0.9
    """Weight of the teacher in that training, at --temperature; 0 trains without a teacher."""
    figures: Path | None = None
    """Folder for figures: probabilities over the epochs, and MACs against the target."""
    train_images: int | None = None
    """Pictures sampled from the data to learn from; by default all but the validation pictures."""
    validation_images: int = 0
    """Pictures held out to measure the accuracy on after every epoch; --architecture-search.choose best needs some."""
    model_args: tuple[str, ...] = ()
    """Arguments of the factory as NAME=VALUE, with the value in JSON, such as classes=10."""
    overwrite: bool = False
    """Replace the files if they exist."""
    restart: bool = False
    """Start again, even if an interrupted search could be resumed."""
    pictures: tyro.conf.OmitArgPrefixes[Source]
    evaluation: tyro.conf.OmitArgPrefixes[Evaluation] = field(default_factory=Evaluation)
    architecture_search: ArchitectureSearch = field(default_factory=ArchitectureSearch)
    settings: tyro.conf.OmitArgPrefixes[RecipeKind]
    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)


@dataclass(frozen=True, kw_only=True)
class Search(Common, SearchOptions[RecipeKind]):
    """Search widths and depths of a network, and train what is found. The same command resumes an interrupted search.

    The settings at the end are those of the chosen recipe; for another one see `scionet search --recipe NAME --help`.
    """


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `scionet evaluate`."""

    pruned: Path | None = None
    """A pruned network, written by `scionet prune`."""
    model: str | None = None
    """A dense network, or the factory of a pruned file's network: timm:NAME, torchvision:NAME, scionet:NAME, or
    package.module:function."""
    weights: Path | None = None
    """Weights of the dense network: a .safetensors file, or a state dict written by torch.save."""
    model_args: tuple[str, ...] = ()
    """Arguments of the factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    images: int | None = None
    """Evaluate on this many pictures, sampled at random; all by default."""
    exclude_calibration_of: Path | None = None
    """A pruned network; leave out the pictures that it was calibrated or trained on."""
    bf16: bool = False
    """Compute in bfloat16 where torch's autocast does: faster, and slightly different."""
    latency: bool = False
    """Also time forward passes of one picture."""
    json: Path | None = None
    """Write the results to this file, for programs to read."""
    overwrite: bool = False
    """Replace the file if it exists."""
    pictures: tyro.conf.OmitArgPrefixes[Pictures]


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common, EvaluateOptions):
    """Measure the accuracy and the cost of a network, pruned or dense."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `scionet export`."""

    pruned: Path
    """A pruned network, written by `scionet prune`."""
    to: Path
    """The file to write; its suffix chooses the format: .onnx, or .pt2 (torch.export)."""
    model: str | None = None
    """The dense network's factory, where the file names none: timm:NAME, ..., package.module:function."""
    model_args: tuple[str, ...] = ()
    """Arguments of this factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""
    input_shape: tuple[int, ...] | None = None
    """Shape of one input without the batch, such as 3 224 224; recorded in the pruned file by default."""
    overwrite: bool = False
    """Replace the file if it exists."""


@dataclass(frozen=True, kw_only=True)
class Export(Common, ExportOptions):
    """Write a pruned network for other runtimes, and check that it computes the same there."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions:
    """A network and labelled pictures to analyze."""

    model: str
    """The network, trained or fresh: timm:NAME, torchvision:NAME, scionet:NAME, or package.module:function."""
    weights: Path | None = None
    """Its weights: a .safetensors file, or a state dict written by torch.save; those of the factory by default."""
    pictures: tyro.conf.OmitArgPrefixes[Pictures]
    images: int = 64
    """Labelled pictures, sampled at random, on which the loss is measured."""
    json: Path | None = None
    """Write the results to this file, for programs to read."""
    overwrite: bool = False
    """Replace the files if they exist."""
    model_args: tuple[str, ...] = ()
    """Arguments of the factory as NAME=VALUE, with the value in JSON, such as num_classes=10."""


@dataclass(frozen=True, kw_only=True)
class CollapseOptions(AnalyzeOptions):
    """The scores and compressions to analyze."""

    scores: tuple[str, ...] = ("magnitude", "random", "snip", "synflow")
    """Scores of single weights."""
    compressions: tuple[float, ...] = (10.0, 31.6, 100.0, 316.0, 1000.0)
    """Weights of the network per weight kept."""
    plot: Path | None = None
    """Plot the curves into this .svg file."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeCollapse(Common, CollapseOptions):
    """Mask single weights to each compression by each score, and show which layers become empty."""


@dataclass(frozen=True, kw_only=True)
class GradientFlowOptions(AnalyzeOptions):
    """The scores to correlate, and the mode of BatchNorm."""

    methods: tuple[str, ...] = ()
    """Scores of units, such as l1, loss_preservation and grasp. Each is correlated with the change of the loss when a
    unit is removed, which takes a pass over the pictures per unit."""
    batch_norms: bool = False
    """BatchNorms use the statistics of each batch, as in training."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeGradientFlow(Common, GradientFlowOptions):
    """Compare predicted with measured rates of change of norm, loss and gradient under gradient flow."""


@dataclass(frozen=True, kw_only=True)
class BenchRun(Common):
    """Do all runs of an experiment that are neither done nor failed; several commands may share one folder."""

    experiment: tyro.conf.Positional[Path]
    """The experiment: a TOML file, such as benchmarks/configs/smoke.toml."""
    out: Path
    """Folder of the records, the networks and the work in progress; created if it does not exist."""
    data: Path = Path()
    """Folder that the experiment's data and weights are relative to."""
    jobs: int = 1
    """Runs at a time. Each gets an equal share of the processors, or --threads threads."""
    backend: BackendName = "loky"
    """Backend for the runs: loky (processes of this machine), ray or dask (a cluster), threading, sequential."""
    retry: bool = False
    """Run failed runs again."""
    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)


@dataclass(frozen=True, kw_only=True)
class BenchStatus(Common):
    """Show the state of every run of an experiment."""

    experiment: tyro.conf.Positional[Path]
    """The experiment: a TOML file."""
    out: Path
    """Folder of its records."""
    data: Path = Path()
    """Folder that the experiment's data and weights are relative to."""


@dataclass(frozen=True, kw_only=True)
class BenchReport(BenchStatus):
    """Write the report of all finished runs: report.html, table.md and table.csv in the folder."""

    headline: str | None = None
    """The method to emphasise, by its name in tables; by default the most accurate forward selection."""


@dataclass(frozen=True, kw_only=True)
class BenchPack(Common):
    """Collect the records of a folder in one file: checked, sorted and with a checksum, ready to be committed."""

    folder: tyro.conf.Positional[Path]
    """A folder of records, one JSON file per run, such as `records` in the folder of an experiment."""
    out: Path | None = None
    """The packed file; by default FOLDER.jsonl beside the folder. Records that are in it already stay in it."""
