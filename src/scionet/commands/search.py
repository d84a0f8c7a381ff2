"""scionet search: searches widths and depths on pictures, trains what is found, and writes it to files."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from scionet.budget.budget import Budget
from scionet.commands import networks
from scionet.commands.learning import TrainingImages, state_file, training_images
from scionet.commands.options import Search
from scionet.commands.output_files import check_writable
from scionet.commands.scoring import count, percent, score
from scionet.commands.show import advise, line, table
from scionet.errors import InvalidSetting
from scionet.files.locks import held
from scionet.models.factory import FACTORIES
from scionet.network.multiprocess import world
from scionet.search.architecture import write_architecture
from scionet.search.architecture_search import SearchResult, search_architecture
from scionet.search.figures import write_figures
from scionet.search.found_files import save_searched
from scionet.training.accuracy import Accuracy
from scionet.training.recipes import Recipe


def run(command: Search[Any]) -> None:
    """Search, train, save, and evaluate if asked for.

    Raises:
        PruneError: If an option or a file is wrong. Most errors are found before the search.
    """
    check_writable(command.out, command.overwrite, (".safetensors",))
    check_writable(_config(command), command.overwrite, (".config",))
    if world()[1] > 1:
        raise InvalidSetting("scionet search runs in one process; start it without accelerate launch or torchrun")
    with held(command.out, "a search"):
        _run(command)


def _run(command: Search[Any]) -> None:
    """Do what `run` says, while no other search writes the same file."""
    recipe: Recipe = command.settings
    if recipe.needs_teacher:
        raise InvalidSetting("the supernet learns without a teacher; give --distillation, not --teacher-weight")
    budget = Budget.of(command.budget)
    training = _training(command, recipe)
    kwargs = networks.keywords(command.model_args)
    model = networks.dense(command.model, kwargs, command.weights)
    material = training_images(command, None)
    before = None if material.evaluation is None else score(model, material.evaluation, "before", command.quiet)
    state = state_file(command, True)
    if command.restart:
        _of_training(state).unlink(missing_ok=True)
    try:
        result = search_architecture(
            model,
            material.training,
            budget,
            method=command.architecture_search,
            recipe=recipe,
            training=training,
            example_inputs=material.training[0][0][None],
            validation=material.validation,
            state_file=state,
            execution=command.execution,
            seed=command.seed,
            progress=not command.quiet,
        )
    except KeyboardInterrupt:
        advise(command, f"{state} holds where the search stands; the same command goes on from there")
        raise
    _save(command, result)
    for path in (state, _of_training(state)):
        path.unlink(missing_ok=True)
    _report(command, result, material, before)


def _training(command: Search[Any], recipe: Recipe) -> Recipe:
    """The recipe of the network that is found.

    Raises:
        InvalidSetting: If there is no trained teacher, or a setting is out of range.
    """
    if command.distillation and command.weights is None:
        raise InvalidSetting(
            "the full network is the teacher of the one that is found, and must be trained: give --weights FILE, or "
            "--distillation 0 to train without a teacher"
        )
    epochs = recipe.epochs if command.train_epochs is None else command.train_epochs
    return replace(recipe, epochs=epochs, teacher_weight=command.distillation)


def _config(command: Search[Any]) -> Path:
    return command.out.with_suffix(".config")


def _of_training(state: Path) -> Path:
    """The state file of the training of what was found."""
    return state.with_suffix(".found.safetensors")


def _save(command: Search[Any], result: SearchResult) -> None:
    """Write weights, configuration, and figures if asked for."""
    given = networks.without_weights(command.model, networks.keywords(command.model_args))
    save_searched(command.out, result.model, result.architecture, command.model, given, overwrite=command.overwrite)
    counts = {"estimated_FLOP": result.estimated_macs, "derived_FLOP": result.found.macs}
    write_architecture(_config(command), result.architecture, counts, command.overwrite)
    if command.figures is not None and result.trace:
        below = command.architecture_search.tolerance_below
        write_figures(command.figures, result.space, result.trace, result.target_macs, below)


def _report(command: Search[Any], result: SearchResult, material: TrainingImages, before: Accuracy | None) -> None:
    """Print the result table and what to do next."""
    full, found = result.full, result.found
    rows = [
        ("MACs", count(full.macs), count(found.macs), f"{percent(found.macs / full.macs)} kept"),
        ("MACs as estimated by the official code", count(full.macs), count(result.estimated_macs), ""),
        ("parameters", count(full.params), count(found.params), f"{percent(found.params / full.params)} kept"),
    ]
    if material.evaluation is not None and before is not None:
        after = score(result.model, material.evaluation, "after", command.quiet)
        change = f"{100 * (after.rate - before.rate):+.2f} points"
        rows.append((f"accuracy ({after.seen:,} pictures)", percent(before.rate), percent(after.rate), change))
    table(f"{command.model}, {command.budget}, {command.recipe}", ("full", "found", ""), rows)
    line(f"the architecture is {result.status}")
    line(f"saved to {command.out} and {_config(command)}")
    source, _, name = command.model.partition(":")
    if source == "scionet" and name in FACTORIES:
        _advise_evaluation(command, name, result)


def _advise_evaluation(command: Search[Any], name: str, result: SearchResult) -> None:
    lists = {key: json.dumps(value, separators=(",", ":")) for key, value in result.architecture.arguments().items()}
    arguments = [f"network={name}", *command.model_args, *(f"{key}={value}" for key, value in lists.items())]
    words = ["scionet", "evaluate", "--model", "scionet:searched", "--model-args", *arguments]
    words += ["--weights", str(command.out), "--data", str(command.pictures.data)]
    advise(command, "go on with:", f"  {shlex.join(words)}")
