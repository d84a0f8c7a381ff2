"""scionet analyze valley: the loss between a network and others, as a record, a figure and a page."""

import copy
from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scionet.analysis.valley import valley
from scionet.bench.records.record_files import make_folder
from scionet.commands import networks
from scionet.commands.analyses.results import provenance_of, write_results
from scionet.commands.analyses.subject import (
    RECIPE,
    Pictures,
    network_of,
    read_pictures,
    refuse_overwriting,
    trained_network,
)
from scionet.commands.analyses.valley_record import Segment, ValleyRecord
from scionet.commands.analyses.valley_sections import sections
from scionet.commands.analysis_options import AnalyzeValley
from scionet.errors import InvalidSetting
from scionet.masks.masking import mask_weights
from scionet.network.calling import state_of
from scionet.sparse_training.rewind import HeldAtZero
from scionet.training.fit import fit
from scionet.training.recipes import Recipe

TITLE = "One valley, or a barrier?"
DENSITY = 0.2
"""Fraction of the weights of the small network that the masked network keeps."""
DIRECTIONAL = Recipe(
    epochs=30,
    batch_size=64,
    optimiser="grda",
    optimiser_settings={"c": 0.03, "mu": 0.55},
    learning_rate=0.05,
    weight_decay=0.0,
    schedule="constant",
)
"""gRDA, from the trained network on."""


def run(command: AnalyzeValley) -> None:
    """Measure the segments and write the results.

    Raises:
        PruneError: If something is wrong with what was given.
    """
    refuse_overwriting(command)
    if (command.model is None) != (command.second is None):
        raise InvalidSetting("--model, with its --weights, and --second are the two ends; give both, or neither")
    pictures = read_pictures(command, command.seed)
    name, model = network_of(command, pictures, command.seed)
    make_folder(command.out)
    segments = []
    for other, state in _ends(command, model, pictures):
        found = valley(model, state, pictures.batches, points=command.points, recalibrate=command.recalibrate)
        segments.append(Segment(other, found))
    made = provenance_of("valley", command, command.seed)
    kind = command.source.partition(":")[0]
    record = ValleyRecord(kind, len(pictures.labels), name, command.seed, tuple(segments), made)
    subtitle = f"The loss from {name} straight to others, on {record.pictures:,} pictures ({kind})."
    write_results(command, record, TITLE, subtitle, sections(record.segments), made)


def _ends(command: AnalyzeValley, model: nn.Module, pictures: Pictures) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The networks at the other ends, with their names.

    Raises:
        CheckpointError: If the weights cannot be read or do not fit.
    """
    if command.model is not None and command.second is not None:
        kwargs = networks.keywords(command.model_args)
        yield "the second network", state_of(networks.dense(command.model, kwargs, command.second))
        return
    data = TensorDataset(pictures.images, pictures.labels)
    masked = copy.deepcopy(model)
    held = HeldAtZero(mask_weights(masked, DENSITY, seed=command.seed).masks)
    fit(masked, data, RECIPE, callbacks=(held,), seed=command.seed, progress=False)
    yield f"{DENSITY:.0%} of its weights, fine-tuned", state_of(masked)
    directional = copy.deepcopy(model)
    fit(directional, data, DIRECTIONAL, seed=command.seed, progress=False)
    zeros = sum(int((each == 0).sum()) for each in directional.parameters())
    share = 1 - zeros / sum(each.numel() for each in directional.parameters())
    yield f"directional pruning, {share:.0%} of its weights", state_of(directional)
    yield "another training from other weights", state_of(trained_network(pictures, command.seed + 1))
