"""scionet shrink: trains a network on pictures so that it shrinks, and writes the cut network to a file."""

import shlex
from pathlib import Path
from typing import Any

from scionet.budget.budget import Budget
from scionet.choices.limits import Limits
from scionet.commands import networks
from scionet.commands.chosen import chosen_shrinking, shrinking_widths
from scionet.commands.learning import TrainingImages, state_file, told, training_images
from scionet.commands.options import Shrink
from scionet.commands.output_files import check_writable
from scionet.commands.scoring import count, percent, score
from scionet.commands.show import advise, line, table
from scionet.errors import InvalidSetting
from scionet.files.locks import held
from scionet.network.checkpoints.checkpoint import read_plan, save_pruned
from scionet.network.multiprocess import world
from scionet.network.plan import Plan
from scionet.shrinking import ShrinkResult, shrink
from scionet.training.accuracy import Accuracy
from scionet.training.recipes import Recipe


def run(command: Shrink[Any]) -> None:
    """Train, cut, save, and evaluate if asked for.

    Raises:
        PruneError: If an option or a file is wrong. Most errors are found before the training.
    """
    check_writable(command.out, command.overwrite, (".safetensors",))
    if world()[1] > 1:
        raise InvalidSetting("scionet shrink trains in one process; start it without accelerate launch or torchrun")
    with held(command.out, "a training"):
        _run(command)


def _run(command: Shrink[Any]) -> None:
    """Do what `run` says, while no other training writes the same file."""
    recipe: Recipe = command.settings
    if recipe.needs_teacher:
        raise InvalidSetting("scionet shrink has no teacher; leave out --teacher-weight and --features")
    budget = None if command.budget is None else Budget.of(command.budget)
    method, widths, towards = chosen_shrinking(command), shrinking_widths(command), _towards(command)
    material = training_images(command, None)
    kwargs = networks.keywords(command.model_args)
    model = networks.dense(command.model, kwargs, command.weights)
    before = None if material.evaluation is None else score(model, material.evaluation, "before", command.quiet)
    state = state_file(command, True)
    example = material.training[0][0][None]
    try:
        result = shrink(
            model,
            material.training,
            budget,
            method=method,
            recipe=recipe,
            example_inputs=example,
            validation=material.validation,
            widths=widths,
            towards=towards,
            limits=Limits(command.round_to, command.min_units, command.ignored_layers),
            state_file=state,
            execution=command.execution,
            seed=command.seed,
            progress=not command.quiet,
        )
    except KeyboardInterrupt:
        advise(command, f"{state} holds where the training stands; the same command goes on from there")
        raise
    assert result.training is not None, "shrink has trained"
    extra = {**material.record.extra(), "training": {**told(command, result.training), "trace": [*result.trace]}}
    save_pruned(
        command.out,
        result.model,
        result.plan,
        result.sites,
        factory=command.model,
        factory_kwargs=networks.without_weights(command.model, kwargs),
        example_inputs=example,
        extra=extra,
        overwrite=command.overwrite,
    )
    state.unlink()
    _report(command, result, material, before)


def _towards(command: Shrink[Any]) -> str | Plan | None:
    """The plan in a file, or the name of a method."""
    if command.towards is None or not command.towards.endswith(".safetensors"):
        return command.towards
    return read_plan(Path(command.towards))


def _report(command: Shrink[Any], result: ShrinkResult, material: TrainingImages, before: Accuracy | None) -> None:
    """Print the result table and what to do next."""
    dense, cut = result.report.dense, result.report.pruned
    assert result.training is not None, "shrink has trained"
    first, last = result.training.history[0], result.training.history[-1]
    rows = [
        ("MACs", count(dense.macs), count(cut.macs), f"{percent(cut.macs / dense.macs)} kept"),
        ("parameters", count(dense.params), count(cut.params), f"{percent(cut.params / dense.params)} kept"),
        ("training loss", f"{first.loss:.4f}", f"{last.loss:.4f}", "first and last epoch"),
    ]
    if material.evaluation is not None and before is not None:
        after = score(result.model, material.evaluation, "after", command.quiet)
        change = f"{100 * (after.rate - before.rate):+.2f} points"
        rows.append((f"accuracy ({after.seen:,} pictures)", percent(before.rate), percent(after.rate), change))
    table(f"{command.model}, {command.method}, {command.recipe}", ("before", "after", ""), rows)
    line(result.report.status)
    line(f"saved to {command.out}")
    split = command.evaluation.evaluate_split or ("test" if command.pictures.split else None)
    data = ["--data", str(command.pictures.data), *(["--split", split] if split else [])]
    words = [
        "scionet",
        "finetune",
        "--pruned",
        str(command.out),
        *data,
        "--out",
        f"{command.out.stem}-tuned.safetensors",
    ]
    advise(command, "go on with:", f"  {shlex.join(words)}")
