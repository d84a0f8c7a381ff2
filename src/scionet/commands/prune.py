"""scionet prune: prunes a trained network with calibration pictures, and writes the smaller one to a file."""

import shlex
import time
from dataclasses import dataclass

from torch import nn

from scionet.budget.budget import Budget
from scionet.choices.limits import Limits
from scionet.commands import latency, networks, pictures
from scionet.commands.chosen import chosen_depth, chosen_method, chosen_repair, chosen_widths, refuse_no_stop
from scionet.commands.options import Prune
from scionet.commands.output_files import check_writable
from scionet.commands.pictures import ImageSample, PictureRecord
from scionet.commands.scoring import count, percent, score
from scionet.commands.show import advise, line, table
from scionet.data.batches import ImageBatches, batches
from scionet.data.folders import ImageFolder
from scionet.network.checkpoints.checkpoint import save_pruned
from scionet.pruning import PruneResult, prune
from scionet.training.accuracy import Accuracy


@dataclass(frozen=True)
class PruneImages:
    """The pictures of a run.

    Attributes:
        record: Their preparation, and the sample for calibration.
        calibration: Calibration pictures, in batches with labels.
        evaluation: Other pictures to evaluate on, if asked for.
    """

    record: PictureRecord
    calibration: ImageBatches
    evaluation: ImageBatches | None


def run(command: Prune) -> None:
    """Prune, save, and evaluate if asked for.

    Raises:
        PruneError: If an option or a file is wrong. Most errors are found before the long work.
    """
    check_writable(command.out, command.overwrite, (".safetensors",))
    budget = None if command.budget is None else Budget.of(command.budget)
    table = latency.read(command, budget)
    method, repair = chosen_method(command), chosen_repair(command)
    widths, depth = chosen_widths(command), chosen_depth(command)
    refuse_no_stop(command)
    limits = Limits(command.round_to, command.min_units, command.ignored_layers)
    material = _material(command)
    kwargs = networks.keywords(command.model_args)
    model = networks.dense(command.model, kwargs, command.weights)
    example = latency.example(command, budget, material.calibration)
    start = time.perf_counter()
    result = prune(
        model,
        material.calibration,
        budget,
        example_inputs=example,
        method=method,
        widths=widths,
        depth=depth,
        repair=repair,
        outputs=command.outputs,
        limits=limits,
        resources=command.resources,
        latency_table=table,
        seed=command.seed,
        progress=not command.quiet,
    )
    seconds = time.perf_counter() - start
    latency.write(command, result.latency_table)
    save_pruned(
        command.out,
        result.model,
        result.plan,
        result.sites,
        factory=command.model,
        factory_kwargs=networks.without_weights(command.model, kwargs),
        example_inputs=example,
        extra=material.record.extra(),
        overwrite=command.overwrite,
    )
    _report(command, result, seconds, _evaluated(command, model, result.model, material.evaluation))


def _material(command: Prune) -> PruneImages:
    """Sample the pictures.

    Raises:
        InvalidSetting: If the data, the preparation or a number of pictures do not fit.
    """
    options = command.pictures
    prepared = pictures.preprocessing(options)
    folder = ImageFolder(options.data, options.split)
    image_sample, sampled = ImageSample.of(folder, command.calibration_images, command.seed)
    calibration = batches(folder, prepared, command.resources.batch_size, sampled, labels=True)
    evaluation = None
    if (test := pictures.to_evaluate(command, folder, sampled)) is not None:
        evaluation = batches(test[0], prepared, command.resources.batch_size, test[1], labels=True)
    return PruneImages(PictureRecord(prepared, (image_sample,)), calibration, evaluation)


def _evaluated(
    command: Prune, dense: nn.Module, pruned: nn.Module, test: ImageBatches | None
) -> tuple[Accuracy, Accuracy] | None:
    if test is None:
        return None
    return score(dense, test, "dense", command.quiet), score(pruned, test, "pruned", command.quiet)


def _report(command: Prune, result: PruneResult, seconds: float, accuracies: tuple[Accuracy, Accuracy] | None) -> None:
    """Print the result table and what to do next."""
    before, after = result.report.dense, result.report.pruned
    rows = [
        ("MACs", count(before.macs), count(after.macs), f"{percent(after.macs / before.macs)} kept"),
        ("parameters", count(before.params), count(after.params), f"{percent(after.params / before.params)} kept"),
    ]
    if result.report.dropped:
        before_branches, gone = len(result.sites.branches), len(result.report.dropped)
        rows.append(("residual branches", str(before_branches), str(before_branches - gone), f"{gone} dropped"))
    if (timed := result.report.latency) is not None:
        before_ms, after_ms = timed.predicted_dense_ms, timed.predicted_pruned_ms
        kept = f"{percent(after_ms / before_ms)} kept"
        rows.append(("latency, predicted", f"{before_ms:.4g} ms", f"{after_ms:.4g} ms", kept))
        kept = f"{percent(timed.pruned.median_ms / timed.dense.median_ms)} kept"
        rows.append(("latency, measured", str(timed.dense), str(timed.pruned), kept))
    if accuracies is not None:
        dense, pruned = accuracies
        change = f"{100 * (pruned.rate - dense.rate):+.2f} points"
        rows.append((f"accuracy ({dense.seen:,} pictures)", percent(dense.rate), percent(pruned.rate), change))
    table(f"{command.model}, {command.method}, {command.budget}", ("dense", "pruned", ""), rows)
    if timed is not None:
        line(f"latency predicted by a table of {timed.origin}")
    line(f"pruned in {seconds:.1f} s; masked and cut network agree to {result.report.difference:.0e}")
    line(result.report.status)
    line(f"saved to {command.out}")
    for refusal in result.report.refused:
        advise(command, f"left whole: {refusal.site} ({refusal.operation} in {refusal.module or 'the network'})")
    advise(command, "go on with:", *(f"  {shlex.join(words)}" for words in _next_commands(command)))


def _next_commands(command: Prune) -> list[list[str]]:
    split = command.evaluation.evaluate_split or ("test" if command.pictures.split else None)
    data = ["--data", str(command.pictures.data), *(["--split", split] if split else [])]
    exclude = [] if split else ["--exclude-calibration-of", str(command.out)]
    return [
        ["scionet", "evaluate", "--pruned", str(command.out), *data, *exclude],
        ["scionet", "export", "--pruned", str(command.out), "--to", str(command.out.with_suffix(".onnx"))],
    ]
