"""The demo: a small residual network on handwritten digits, pruned by every method, measured, and shown on one page."""

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scionet.bench.experiment.competitors import COMPETITORS, FORWARD, LOSS
from scionet.bench.records.record import RunRecord, save
from scionet.bench.report.summary import summarise
from scionet.bench.report.tables import to_matrix
from scionet.bench.runs.competitor_runs import Comparison, CompetitorRun, outcome
from scionet.budget.costs import measure
from scionet.budget.latency.timing import latency
from scionet.choices.methods import Forward
from scionet.data.digits import digits
from scionet.errors import VerificationError
from scionet.extras import extra
from scionet.models.resnets import digits_cnn
from scionet.network.calling import Batch, call
from scionet.network.checkpoints.checkpoint import load_pruned, save_pruned
from scionet.network.checkpoints.graph_export import export_onnx
from scionet.training.fit import fit
from scionet.training.recipes import Recipe

SHOWN = (
    "forward least squares",
    "forward average",
    "forward line search",
    *(f"{score}{refit}" for score in ("random", "l1", "bn_scale") for refit in ("", " + refit")),
    "l1 + refit + sensitivity",
)
"""Competitors of the demo, besides the default and the task loss."""
BUDGETS = ("macs<=70%", "macs<=50%", "macs<=30%")
QUICK_LOSS = replace(LOSS, method=Forward("task_loss", "stochastic"))
RECIPE = Recipe(epochs=15, batch_size=64, learning_rate=0.1, weight_decay=5e-4, warmup_epochs=4.5)
CALIBRATION_EXAMPLES = 512
LABELLED_EXAMPLES = 64
"""Examples for the task loss: fewer, because it is evaluated for every candidate."""
PACKAGES = ("accelerate", "jinja2", "matplotlib", "onnx", "onnxruntime", "onnxscript", "sklearn")
"""Packages of scionet[all] that the demo needs, checked before it trains."""


def run(out: Path, seed: int = 0, quiet: bool = False) -> Path:
    """Train, prune to several budgets by every method, verify, save, reload, export, time, and write the page.

    Args:
        out: Folder for the records, the pruned networks and ``report.html``; created if it does not exist.
        seed: Root of all randomness.
        quiet: Print nothing.

    Returns:
        Path of the page.

    Raises:
        MissingExtra: If a package is not installed.
    """
    with extra("all"):
        for package in PACKAGES:
            import_module(package)
    from scionet.bench.report.page import write_html

    console = Console(quiet=quiet)
    out.mkdir(parents=True, exist_ok=True)
    train_x, train_y, val_x, val_y = digits(seed)
    model = trained(train_x, train_y, seed, quiet)
    test = [(val_x, val_y)]
    dense, _ = outcome(model, measure(model, val_x[:1]), test)
    console.print(f"dense network: {100 * dense.accuracy:.2f} % of {dense.seen} validation digits right")
    comparison = Comparison(
        "demo", "digits CNN", "digits", model, val_x[:2], test, dense, f"scionet demo --seed {seed}"
    )
    records = list(_compared(comparison, train_x, train_y, out, seed, console))
    page = out / "report.html"
    write_html(records, page, "scionet demo: handwritten digits", headline=FORWARD.label)
    console.print("top-1 accuracy in percent, without any training after the cut:")
    console.print(Markdown(to_matrix(summarise(records))))
    console.print(f"report: {page}")
    return page


def trained(images: Tensor, labels: Tensor, seed: int, quiet: bool) -> nn.Module:
    """The demo's network after a short training."""
    torch.manual_seed(seed)
    model = digits_cnn()
    fit(model, TensorDataset(images, labels), RECIPE, seed=seed, progress=not quiet)
    return model.eval()


def _compared(
    comparison: Comparison, images: Tensor, labels: Tensor, out: Path, seed: int, console: Console
) -> Iterator[RunRecord]:
    """Every method at every budget; each record is saved as soon as its method is done."""
    plain = list(images[:CALIBRATION_EXAMPLES].split(256))
    labelled = [(images[:LABELLED_EXAMPLES], labels[:LABELLED_EXAMPLES])]
    shown = (FORWARD, *(c for c in COMPETITORS if c.label in SHOWN), QUICK_LOSS)
    for competitor in track(shown, "prune", console=console):
        for done in comparison.run_each(competitor, labelled if competitor is QUICK_LOSS else plain, BUDGETS, seed):
            record = _used(comparison, done, out, console) if competitor is FORWARD else done.record
            save(record, out / "records")
            yield record


def _used(comparison: Comparison, done: CompetitorRun, out: Path, console: Console) -> RunRecord:
    """Save, load into a new network, export and time, as a user does next. Returns the record with the times."""
    result, record = done.result, done.record
    stem = f"digits-{record.spec.budget.removeprefix('macs<=').removesuffix('%')}"
    path = save_pruned(
        out / f"{stem}.safetensors",
        result.model,
        result.plan,
        result.sites,
        factory="scionet:digits_cnn",
        overwrite=True,
    )
    loaded = load_pruned(path, digits_cnn())
    _check_equal(result.model, loaded, comparison.example_inputs)
    exported = export_onnx(loaded, comparison.example_inputs, out / f"{stem}.onnx", overwrite=True)
    batch = next(iter(comparison.test))[0]
    times = latency({"dense": comparison.model, "pruned": loaded}, batch, repeats=50)
    console.print(
        f"{record.spec.budget}: saved and loaded bit for bit, "
        f"ONNX agrees to {exported.difference:.0e}, {times['dense'].median_ms / times['pruned'].median_ms:.2f}x as fast"
    )
    return replace(
        record,
        dense=replace(record.dense, latency=times["dense"]),
        pruned=replace(record.pruned, latency=times["pruned"]),
    )


def _check_equal(saved: nn.Module, loaded: nn.Module, inputs: Batch) -> None:
    with torch.no_grad():
        if not torch.equal(call(saved, inputs), call(loaded.eval(), inputs)):
            raise VerificationError("the loaded network differs from the saved one; report this")
