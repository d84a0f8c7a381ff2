"""scionet mask: masks single weights of a network, and writes it with its masks to a file."""

import shlex

from scionet.commands import networks, pictures
from scionet.commands.options import Mask
from scionet.commands.output_files import check_writable
from scionet.commands.pictures import ImageSample
from scionet.commands.scoring import first
from scionet.commands.show import advise, line
from scionet.data.batches import batches
from scionet.data.folders import ImageFolder
from scionet.masks.masking import mask_weights
from scionet.masks.schedule import Schedule
from scionet.masks.sparse import sparse_state
from scionet.masks.sparse_files import save_sparse


def run(command: Mask) -> None:
    """Mask, save, and say what was kept.

    Raises:
        PruneError: If an option or a file is wrong.
    """
    check_writable(command.out, command.overwrite, (".safetensors",))
    folder = ImageFolder(command.pictures.data, command.pictures.split)
    sampled = ImageSample.of(folder, min(command.images, len(folder)), command.seed)[1]
    prepared = pictures.preprocessing(command.pictures)
    pairs = batches(folder, prepared, command.pictures.batch_size, sampled, labels=True)
    model = networks.dense(command.model, networks.keywords(command.model_args), command.weights)
    found = mask_weights(
        model,
        command.density,
        score=command.score,
        batches=pairs,
        example_inputs=first(pairs),
        ignored_layers=command.ignored_layers,
        scope=command.scope,
        schedule=None if command.rounds is None else Schedule(command.rounds, command.shape),
        min_per_layer=command.min_per_layer,
        seed=command.seed,
    )
    save_sparse(command.out, sparse_state(model, found.masks), overwrite=command.overwrite)
    line(str(found.report))
    line(f"saved to {command.out}")
    data = [
        "--data",
        str(command.pictures.data),
        *(["--split", command.pictures.split] if command.pictures.split else []),
    ]
    tuned = f"{command.out.stem}-tuned.safetensors"
    words = ["scionet", "finetune", "--pruned", str(command.out), "--model", command.model, *data, "--out", tuned]
    advise(command, "go on with:", f"  {shlex.join(words)}")
