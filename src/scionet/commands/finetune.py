"""scionet finetune: trains a pruned network from a file on pictures, and writes it to another file."""

import hashlib
import shlex
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from scionet.commands import networks, pictures
from scionet.commands.options import Finetune
from scionet.commands.output_files import check_writable
from scionet.commands.pictures import ImageSample, PictureRecord, record_of
from scionet.commands.scoring import percent, score
from scionet.commands.show import advise, line, table
from scionet.data.augmentation import Augmentation
from scionet.data.batches import ImageBatches, batches
from scionet.data.examples import ImageExamples
from scionet.data.folders import ImageFolder
from scionet.data.sampling import partition
from scionet.errors import InvalidSetting
from scionet.files.locks import held
from scionet.network.checkpoints.checkpoint import describe, read_plan, save_tuned
from scionet.network.multiprocess import world
from scionet.training.accuracy import Accuracy
from scionet.training.execution import accelerator_for
from scionet.training.fit import FitResult, fit
from scionet.training.recipes import Recipe


@dataclass(frozen=True)
class FinetuneImages:
    """The pictures of a run.

    Attributes:
        record: Their preparation, and all pictures that the network was calibrated or trained on.
        training: Training pictures.
        validation: Validation pictures, used after every epoch, if there are any.
        evaluation: Pictures to evaluate on before and after, if asked for; the share of this process.
    """

    record: PictureRecord
    training: ImageExamples
    validation: ImageExamples | None
    evaluation: ImageBatches | None


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
    material = _material(command)
    kwargs = networks.keywords(command.model_args)
    model = networks.pruned(command.pruned, command.model, kwargs, command.trust_factory)
    state = _state_file(command, first)
    before = _scored(command, model, material.evaluation, "before")
    try:
        result = fit(
            model,
            material.training,
            recipe,
            validation=material.validation,
            teacher=_teacher(command, kwargs),
            seed=command.seed,
            state_file=state,
            execution=command.execution,
            depends_on=_origin(command.pruned),
            progress=not command.quiet,
            accelerator=machine,
        )
    except KeyboardInterrupt:
        advise(command, f"{state} holds where the training stands; the same command goes on from there")
        raise
    after = _scored(command, model, material.evaluation, "after")
    if first:
        extra = {**material.record.extra(), "training": _told(command, result)}
        save_tuned(command.out, model, command.pruned, extra=extra, overwrite=command.overwrite)
        state.unlink()
        _report(command, result, before, after)


def _origin(path: Path) -> dict[str, str]:
    """What identifies the network in a file beside its weights: what it was cut from, and how."""
    told = describe(path)
    return {"plan": hashlib.sha256(read_plan(path).to_json().encode()).hexdigest(), "dense_hash": told["dense_hash"]}


def _state_file(command: Finetune[Any], first: bool) -> Path:
    """The state file beside the output, where the same command finds it again."""
    path = command.out.with_suffix(".training.safetensors")
    if command.restart and first:
        path.unlink(missing_ok=True)
    elif path.exists() and first:
        advise(command, f"going on from {path}")
    return path


def _material(command: Finetune[Any]) -> FinetuneImages:
    """Sample the pictures.

    Raises:
        InvalidSetting: If the data, the preparation or a number of pictures do not fit.
    """
    recipe: Recipe = command.settings
    record = record_of(command.pruned)
    prepared = pictures.preprocessing(command.pictures, None if record is None else record.preprocessing)
    folder = ImageFolder(command.pictures.data, command.pictures.split)
    image_sample, sampled = ImageSample.of(folder, _sample_size(command, len(folder)), command.seed)
    parts = partition(len(sampled), {"validation": command.validation_images}, command.seed)
    seen = PictureRecord(prepared, (*(() if record is None else record.samples), image_sample))
    test = pictures.to_evaluate(command, folder, seen.seen(folder))
    rank, size = world()
    return FinetuneImages(
        seen,
        ImageExamples(folder, prepared, sampled[parts["train"]], _augmentation(recipe)),
        ImageExamples(folder, prepared, sampled[parts["validation"]]) if command.validation_images else None,
        None if test is None else batches(test[0], prepared, recipe.batch_size, test[1][rank::size], labels=True),
    )


def _sample_size(command: Finetune[Any], available: int) -> int:
    """Return the numbers of training and validation pictures.

    Raises:
        InvalidSetting: If all would be sampled although the rest is to be evaluated on.
    """
    if command.train_images is not None:
        return command.train_images + command.validation_images
    if command.evaluation.evaluate_rest:
        raise InvalidSetting("--evaluate-rest needs a rest: say by --train-images how many pictures to learn from")
    return available


def _augmentation(recipe: Recipe) -> Augmentation | None:
    kind = recipe.augmentation
    return None if kind == "none" else Augmentation(kind, recipe.padding, recipe.smallest_crop)


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


def _told(command: Finetune[Any], result: FitResult) -> dict[str, Any]:
    """The record of the training."""
    return {
        "recipe": command.recipe,
        "settings": asdict(command.settings),
        "seed": command.seed,
        "status": result.status,
        "history": [asdict(epoch) for epoch in result.history],
    }


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
