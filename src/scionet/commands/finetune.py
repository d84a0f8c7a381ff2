"""scionet finetune: trains a pruned network from a file on pictures, and writes it to another file."""

import hashlib
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from scionet.commands import networks
from scionet.commands.learning import state_file, told, training_images
from scionet.commands.options import Finetune
from scionet.commands.output_files import check_writable
from scionet.commands.pictures import PictureRecord, record_of
from scionet.commands.scoring import percent, score
from scionet.commands.show import advise, line, table
from scionet.data.batches import ImageBatches
from scionet.errors import InvalidSetting
from scionet.files.locks import held
from scionet.masks.sparse import sparse_state
from scionet.masks.sparse_files import save_sparse
from scionet.masks.weight_masks import WeightMasks
from scionet.network.checkpoints.checkpoint import describe, read_plan, save_tuned
from scionet.network.multiprocess import world
from scionet.sparse_training.rewind import HeldAtZero
from scionet.training.accuracy import Accuracy
from scionet.training.execution import accelerator_for
from scionet.training.fit import FitResult, fit
from scionet.training.recipes import Recipe


def run(command: Finetune[Any]) -> None:
    """Train, save, and evaluate if asked for.

    If it is started by `accelerate launch` or torchrun, several processes train together.

    Raises:
        PruneError: If an option or a file is wrong. Most errors are found before the training.
    """
    check_writable(command.out, command.overwrite, (".safetensors",))
    with held(command.out, "a fine-tuning") if world()[0] == 0 else nullcontext():
        _run(command)


def _run(command: Finetune[Any]) -> None:
    """Do what `run` says, while no other fine-tuning writes the same file."""
    recipe: Recipe = command.settings
    machine = accelerator_for(command.execution)
    first = world()[0] == 0
    given = _given(command)
    model, material = given.model, training_images(command, given.record)
    state = state_file(command, first)
    before = _scored(command, model, material.evaluation, "before")
    try:
        result = fit(
            model,
            material.training,
            recipe,
            validation=material.validation,
            teacher=_teacher(command, networks.keywords(command.model_args)),
            seed=command.seed,
            state_file=state,
            execution=command.execution,
            callbacks=() if given.masks is None else (HeldAtZero(given.masks),),
            depends_on=given.origin,
            progress=not command.quiet,
            accelerator=machine,
        )
    except KeyboardInterrupt:
        advise(command, f"{state} holds where the training stands; the same command goes on from there")
        raise
    after = _scored(command, model, material.evaluation, "after")
    if first:
        if given.masks is None:
            extra = {**material.record.extra(), "training": told(command, result)}
            save_tuned(command.out, model, command.pruned, extra=extra, overwrite=command.overwrite)
        else:
            save_sparse(command.out, sparse_state(model, given.masks), overwrite=command.overwrite)
        state.unlink()
        _report(command, result, before, after)


@dataclass(frozen=True, eq=False)
class _Given:
    """The network of a file.

    Attributes:
        model: The network.
        masks: Which of its weights are kept, if the others are held at zero.
        record: The pictures that it has seen, if the file names them.
        origin: What identifies it beside its weights: what it was cut from, and how.
    """

    model: nn.Module
    masks: WeightMasks | None
    record: PictureRecord | None
    origin: Mapping[str, Any]


def _given(command: Finetune[Any]) -> _Given:
    """Load the network, pruned or masked.

    Raises:
        CheckpointError: If the file cannot be read or is damaged.
        InvalidSetting: If the network of masked weights is not named.
    """
    path, kwargs = command.pruned, networks.keywords(command.model_args)
    if networks.is_masked(path):
        model, masks = networks.masked(path, command.model, kwargs)
        return _Given(model, masks, None, {"masks": dict(masks)})
    model = networks.pruned(path, command.model, kwargs, command.trust_factory)
    plan = hashlib.sha256(read_plan(path).to_json().encode()).hexdigest()
    return _Given(model, None, record_of(path), {"plan": plan, "dense_hash": describe(path)["dense_hash"]})


def _teacher(command: Finetune[Any], kwargs: dict[str, Any]) -> nn.Module | None:
    """Load the dense network, if it is the teacher.

    Raises:
        InvalidSetting: If the recipe needs it and its weights are not given.
    """
    if command.teacher_weights is not None:
        return networks.teacher(command.pruned, command.model, kwargs, command.trust_factory, command.teacher_weights)
    if command.settings.needs_teacher:
        raise InvalidSetting("--teacher-weight and --features need --teacher-weights, a file of the dense network")
    return None


def _scored(command: Finetune[Any], model: nn.Module, test: ImageBatches | None, stage: str) -> Accuracy | None:
    quiet = command.quiet or world()[0] > 0
    return None if test is None else score(model, test, stage, quiet)


def _report(command: Finetune[Any], result: FitResult, before: Accuracy | None, after: Accuracy | None) -> None:
    """Print the result table and what to do next."""
    first, last = result.history[0], result.history[-1]
    rows = [("training loss", f"{first.loss:.4f}", f"{last.loss:.4f}", "first and last epoch")]
    if validated := [epoch.validation for epoch in result.history if isinstance(epoch.validation, Accuracy)]:
        rates = [each.rate for each in validated]
        name, best = f"validation ({validated[-1].seen:,} pictures)", f"best {percent(max(rates))}"
        rows.append((name, percent(rates[0]), percent(rates[-1]), best))
    if before is not None and after is not None:
        change = f"{100 * (after.rate - before.rate):+.2f} points"
        rows.append((f"accuracy ({after.seen:,} pictures)", percent(before.rate), percent(after.rate), change))
    table(f"{command.pruned}, {command.recipe}", ("before", "after", ""), rows)
    line(result.status)
    line(f"saved to {command.out}")
    split = command.evaluation.evaluate_split or ("test" if command.pictures.split else None)
    words = ["scionet", "evaluate", "--pruned", str(command.out), "--data", str(command.pictures.data)]
    advise(command, "go on with:", f"  {shlex.join([*words, *(['--split', split] if split else [])])}")
