"""scionet analyze limit: predict how many weights can be removed, and measure it."""

import warnings
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from scionet.analysis.limit.measured import COARSE, one_shot, reoptimised
from scionet.analysis.limit.network_limit import pruning_limit
from scionet.analysis.limit.subspaces import transitions
from scionet.analysis.limit.tolerance import Tolerance
from scionet.bench.records.record_files import make_folder
from scionet.commands.analyses.limit_record import LimitRecord, NetworkLimit
from scionet.commands.analyses.limit_sections import sections
from scionet.commands.analyses.results import provenance_of, write_results
from scionet.commands.analyses.subject import (
    Pictures,
    network_of,
    read_pictures,
    refuse_overwriting,
    trained_network,
)
from scionet.commands.analysis_options import AnalyzeLimit
from scionet.errors import InvalidSetting, StationarityWarning
from scionet.training.recipes import Recipe

TITLE = "How many weights can be removed?"
BATCH_SIZE = 128
LONGER = Recipe(epochs=150, batch_size=BATCH_SIZE, learning_rate=0.1, weight_decay=0.0, nesterov=False)
"""Training of the small networks to a minimum of their loss, which nothing but the L1 penalty moves."""
HIDDEN = (24,)


def run(command: AnalyzeLimit) -> None:
    """Predict, measure, and write the results.

    Raises:
        PruneError: If something is wrong with what was given.
    """
    refuse_overwriting(command)
    Tolerance.parse(command.tolerance)
    pictures = read_pictures(command, command.seed)
    networks = list(_networks(command, pictures))
    make_folder(command.out)
    found = tuple(_measured(command, name, model, pictures) for name, model in networks)
    made = provenance_of("limit", command, command.seed)
    kind = command.source.partition(":")[0]
    record = LimitRecord(
        kind,
        len(pictures.labels),
        BATCH_SIZE,
        command.tolerance,
        command.seed,
        transitions(command.seed),
        found,
        made,
    )
    count = f"{record.pictures:,} pictures ({kind})"
    subtitle = f"The curvature of the loss predicts how few weights keep it; measured on {count}."
    write_results(command, record, TITLE, subtitle, sections(record), made)


def _networks(command: AnalyzeLimit, pictures: Pictures) -> Iterator[tuple[str, nn.Module]]:
    """The network of the user, or one small network for each weight of the L1 penalty.

    Raises:
        InvalidSetting: If weights of the penalty are negative, or none are given.
        PruneError: If the network cannot be made.
    """
    if command.model is not None or command.weights is not None or command.model_args:
        yield network_of(command, pictures, command.seed)
        return
    if not command.l1_weights or min(command.l1_weights) < 0:
        raise InvalidSetting(f"--l1-weights are numbers of 0 or more, at least one; given {command.l1_weights}")
    for weight in command.l1_weights:
        recipe = replace(LONGER, l1_weight=weight)
        name = "no L1 penalty" if weight == 0 else f"L1 penalty {weight:g}"
        yield name, trained_network(pictures, command.seed, recipe, HIDDEN)


def _measured(command: AnalyzeLimit, name: str, model: nn.Module, pictures: Pictures) -> NetworkLimit:
    batches = list(zip(pictures.images.split(BATCH_SIZE), pictures.labels.split(BATCH_SIZE), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StationarityWarning)  # the page says it
        predicted = pruning_limit(
            model,
            batches,
            tolerance=command.tolerance,
            parameters=command.parameters or None,
            spectrum=command.spectrum,
            steps=command.steps,
            probes=command.probes,
            negatives=command.negatives,
            seed=command.seed,
        )
    level = predicted.loss + predicted.tolerance
    return NetworkLimit(
        name,
        predicted,
        one_shot(model, pictures.batches, level) if "one-shot" in command.measure else None,
        reoptimised(model, pictures.batches, level, COARSE) if "reoptimised" in command.measure else None,
    )
