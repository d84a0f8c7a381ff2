"""Networks whose masks a score of single weights chooses, before or after training, and which are trained with them.

Sources: Tanaka et al., NeurIPS 2020, Frankle et al., ICLR 2021 (masks at initialisation, and their controls); Liu et
al., ICLR 2019 (masks of a trained network, with new weights).
"""

import hashlib
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from scionet.bench.experiment.arms import epochs_of
from scionet.bench.experiment.densities import density_of
from scionet.bench.experiment.mask_competitors import MaskCompetitor
from scionet.bench.experiment.parts import Trial
from scionet.bench.records.ledger import Payment
from scionet.bench.runs.data import RunData
from scionet.bench.runs.learning import Trainer, learn
from scionet.bench.runs.speed import macs_per_second
from scionet.bench.runs.tickets import MaskedTraining
from scionet.bench.runs.workspace import Dense, Workspace, alone, made
from scionet.files.json_dataclasses import plain, to_json
from scionet.files.safetensors_files import SealedFormat
from scionet.files.versioned import Format
from scionet.masks.masked_costs import masked_macs
from scionet.masks.masking import mask_weights
from scionet.masks.weight_masks import WeightMasks
from scionet.seeds import root
from scionet.sparse_training.rewind import HeldAtZero
from scionet.training.initialise import initialise

SELECTED = SealedFormat(
    "scionet_selected", "masks of the bench", "scionet bench run", Format(1, (), "Remove it, and it is made again")
)
"""Files of masks and of what choosing them cost."""


@dataclass(frozen=True)
class SelectionCost:
    """What choosing the masks of a file cost."""

    payment: Payment


@dataclass(frozen=True, eq=False)
class ChosenMasks:
    """Chosen masks, and what choosing them cost."""

    masks: WeightMasks
    payment: Payment


def masked(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> MaskedTraining:
    """Train a network with masks at every learning rate of the sweep.

    Raises:
        PruneError: If masks cannot be chosen.
        TrainingError: If a training fails.
    """
    experiment, arm, seed = workspace.experiment, trial.arm, trial.seed
    selection = _selected(workspace, trial, material, whole)
    masks = selection.masks.shuffled(root(seed, "shuffled")) if arm.shuffled else selection.masks
    recipe, dense = experiment.recipe(arm), whole.note.outcome.macs
    ratio = dense / masked_macs(whole.model, masks, whole.example)
    learnt = learn(
        lambda: masks.applied(_weights(workspace, trial, whole, masks)),
        replace(recipe, epochs=epochs_of(arm, recipe.epochs, ratio, experiment.longest)),
        experiment.learning_rates,
        Trainer(material, dense, workspace.execution),
        seed,
        workspace.work(workspace.spec(trial).short_id),
        (HeldAtZero(masks),),
    )
    before = whole.note.payments if arm.masks == "trained" else ()
    return MaskedTraining(learnt, masks, (*before, selection.payment))


def _weights(workspace: Workspace, trial: Trial, whole: Dense, masks: WeightMasks) -> nn.Module:
    """The network with the weights that the training of an arm starts from."""
    arm, seed, network = trial.arm, trial.seed, workspace.experiment.network
    if arm.weights == "kept":
        return deepcopy(whole.model)
    if arm.weights == "first":
        return made(network, seed)
    if arm.masks == "initial":  # only the draw differs
        return made(network, root(seed, "re-initialised"))
    model = made(network, seed)
    initialise(model, root(seed, "initialise"), masks)
    return model


def _selected(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> ChosenMasks:
    """The masks of a trial. They are chosen once for all arms that share them."""
    path = _path(workspace, trial)
    with alone(path):
        if not path.exists():
            selection = _select(workspace, trial, material, whole)
            SELECTED.save(path, dict(selection.masks), SelectionCost(selection.payment), overwrite=True)
    note, masks = SELECTED.read(SelectionCost, path)
    return ChosenMasks(WeightMasks(masks), note.payment)


def _select(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> ChosenMasks:
    competitor, initial = _competitor(trial), trial.arm.masks == "initial"
    model = made(workspace.experiment.network, trial.seed) if initial else whole.model
    start = time.perf_counter()
    found = mask_weights(
        model,
        density_of(trial.budget),
        score=competitor.score,
        batches=material.calibration,
        example_inputs=whole.example,
        ignored_layers=competitor.ignored_layers,
        on_collapse="allow",
        seed=trial.seed,
        **competitor.rule,
    )
    seconds = time.perf_counter() - start
    images = workspace.experiment.data.calibration if competitor.uses_labels else 0
    macs = seconds * macs_per_second(whole, material.calibration[0][0])
    return ChosenMasks(found.masks, Payment("selection", images, macs, seconds))


def _path(workspace: Workspace, trial: Trial) -> Path:
    """A file that is named after everything that the masks depend on."""
    depends = [
        plain(_competitor(trial)),
        trial.arm.masks,
        trial.budget,
        trial.seed,
        workspace.dense_identity,
        workspace.experiment.data,
    ]
    name = hashlib.sha256(to_json(depends).encode()).hexdigest()[:12]
    return workspace.out / "masks" / f"{name}.safetensors"


def _competitor(trial: Trial) -> MaskCompetitor:
    if not isinstance(trial.competitor, MaskCompetitor):
        raise AssertionError("a trial whose masks a score chooses has such a competitor")
    return trial.competitor
