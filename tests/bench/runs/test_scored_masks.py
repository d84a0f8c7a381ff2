"""Arms whose masks a score chooses: each as its definition says, with its costs and counts in the record."""

from dataclasses import replace

import pytest
import torch
from support.bench_trials import TOML, make_workspace
from torch import nn

from scionet import mask_weights
from scionet.bench.experiment.arms import ARMS
from scionet.bench.experiment.mask_competitors import MaskCompetitor
from scionet.bench.records.ledger import total
from scionet.bench.records.record import RunRecord, encode_answers
from scionet.bench.records.store import load_all
from scionet.bench.runs.grid import run, standings
from scionet.bench.runs.workspace import Workspace, dense, made
from scionet.errors import PruneError
from scionet.masks.schedule import Schedule
from scionet.masks.weight_masks import WeightMasks
from scionet.masks.weights import maskable
from scionet.seeds import root
from scionet.training.accuracy import correct_predictions
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.fit import fit
from scionet.training.initialise import initialise
from scionet.training.recipes import Recipe

INVERTED = '{score = "synflow", inverted = true, schedule = {rounds = 4}}'
WHO = "synflow, inverted, 4 exponential rounds"
SCORED = [arm.name for arm in ARMS.values() if arm.scored]
TEXT = (
    TOML.replace('["as cut", "fine-tuned", "scratch-b"]', str(SCORED).replace("'", '"'))
    .replace("seeds = [0, 1]", "seeds = [0]")
    .replace('["macs<=60%"]', '["weights<=20%"]')
    .replace('competitors = ["l1", "random"]', f'weight_scores = ["snip", {INVERTED}]')
    .replace("learning_rates = [0.5, 1.0]", "learning_rates = [1.0]\nlongest = 2.0")
)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("scored"), TEXT)
    assert {each.state for each in run(workspace, backend="sequential", threads=1)} == {"done"}
    return workspace


def record_of(workspace: Workspace, arm: str, who: str = "snip") -> RunRecord:
    return next(record for record in load_all(workspace.records) if record.spec.method == f"{who} + {arm}")


def masks_of(workspace: Workspace, initial: bool) -> WeightMasks:
    material = workspace.material(0)
    whole = dense(workspace, material, 0)
    model = made(workspace.experiment.network, 0) if initial else whole.model
    return mask_weights(model, 0.2, score="snip", batches=material.calibration, on_collapse="allow").masks


def answers(workspace: Workspace, model: nn.Module, masks: WeightMasks, recipe: Recipe) -> str:
    """The definition: what is masked is zero before the first step and after every step."""

    class Zeroed(Callback):
        def after_step(self, context: TrainingContext) -> None:
            zero(context.network, masks)

    zero(model, masks)
    material = workspace.material(0)
    fit(model, material.training(recipe), recipe, validation=material.validation, callbacks=(Zeroed(),))
    return encode_answers(correct_predictions(model.eval(), material.test, False).numpy())


@torch.no_grad()
def zero(model: nn.Module, masks: WeightMasks) -> None:
    for name, mask in masks.items():
        model.get_parameter(name)[~mask] = 0


def spread_by_survivors(model: nn.Module, masks: WeightMasks) -> nn.Module:
    initialise(model, root(0, "initialise"))
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_((mask.numel() / max(1, int(mask.sum()))) ** 0.5)
    return model


@pytest.mark.parametrize("arm", SCORED)
def test_every_arm_is_what_its_definition_says(done: Workspace, arm: str) -> None:
    network, trained = done.experiment.network, ARMS[arm].masks == "trained"
    masks, recipe = masks_of(done, initial=not trained), done.experiment.recipe(ARMS[arm])
    record = record_of(done, arm)
    if arm.endswith("shuffled"):
        masks = masks.shuffled(root(0, "shuffled"))
    if arm == "masked scratch-b":
        assert record.masks is not None
        longer = int(min(record.dense.macs / record.masks.macs, 2.0) * recipe.epochs)
        recipe = replace(recipe, epochs=longer)
        assert longer == 2
    if arm == "masked fine-tuned":
        model = dense(done, done.material(0), 0).model
    elif trained:
        model = spread_by_survivors(made(network, 0), masks)
    else:
        model = made(network, root(0, "re-initialised") if arm.endswith("new weights") else 0)
    assert record.answers == answers(done, model, masks, recipe)
    assert record.masks is not None
    assert record.masks.layers == {name: (int(m.sum()), m.numel()) for name, m in masks.items()}


def test_the_record_counts_weights_layers_and_operations(done: Workspace) -> None:
    weights = maskable(made(done.experiment.network, 0))
    size = sum(weight.numel() for weight in weights.values())
    for record in load_all(done.records):
        found = record.masks
        assert found is not None
        assert found.kept == int(0.2 * size + 0.5)
        assert found.density == pytest.approx(0.2, abs=1 / size)
        assert found.compression == pytest.approx(5, rel=1e-3)
        assert set(found.collapsed) == {name for name, (kept, _) in found.layers.items() if kept == 0}
        assert 0 < found.macs < record.pruned.macs == record.dense.macs
        assert record.dense.params - record.pruned.params == size - found.kept
    assert record_of(done, "pruned at initialisation", WHO).masks.collapsed  # type: ignore[union-attr]


def test_the_selection_is_paid_apart_and_done_once(done: Workspace) -> None:
    for record in load_all(done.records):
        images, macs, seconds = total(record.ledger, "selection")
        assert images == (64 if record.spec.method.startswith("snip") else 0)
        assert macs > 0
        assert seconds > 0
        trained = "masked" in record.spec.method
        assert bool(total(record.ledger, "dense training")[0]) == trained
        epochs = 2 if record.spec.method.endswith("scratch-b") else 1
        assert total(record.ledger, "training")[0] == 192 * epochs
    assert len(list((done.out / "masks").glob("*.safetensors"))) == 4  # two scores, before and after the training
    selected = {total(record_of(done, arm).ledger, "selection")[2] for arm in SCORED if ARMS[arm].masks == "initial"}
    assert len(selected) == 1


def test_records_come_back_with_their_masks(done: Workspace) -> None:
    record = record_of(done, "masked scratch-e")
    assert RunRecord.from_json(record.to_json()) == record
    assert RunRecord.from_json(record.to_json()).masks == record.masks


def test_masks_and_controls_belong_to_the_specification(done: Workspace) -> None:
    trials = done.experiment.trials()
    specs = [done.spec(trial) for trial in trials]
    assert len({spec.run_id for spec in specs}) == len(trials) == 2 * len(SCORED)
    described = specs[0].settings["competitor"]
    assert (described["score"], described["inverted"], described["schedule"]) == ("snip", False, None)
    assert "tickets" not in specs[0].settings


def test_labels_say_what_differs_from_the_defaults() -> None:
    labels = {
        MaskCompetitor("synflow"): "synflow",
        MaskCompetitor("synflow", Schedule(1)): "synflow, one round",
        MaskCompetitor("grasp", Schedule(5, "polynomial"), "local"): "grasp, 5 polynomial rounds of power 3, local",
        MaskCompetitor("snip", inverted=True, min_per_layer=2): "snip, inverted, at least 2 per layer",
        MaskCompetitor("snip", ignored_layers=("conv1", "linear")): "snip, conv1 and linear whole",
    }
    assert [competitor.label for competitor in labels] == [*labels.values()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"snip"', '"snap"'), r"unknown weight score 'snap'.*Did you mean 'snip'"),
        ((INVERTED, '{score = "synflow", rounds = 3}'), "rounds is unknown"),
        ((INVERTED, '{score = "synflow", scope = "all"}'), "scope must be one of"),
        ((INVERTED, '{score = "x"}'), "unknown weight score 'x'"),
        ((INVERTED, '{score = "snip", min_per_layer = -1}'), "min_per_layer must be"),
        ((INVERTED, '"snip"'), "weight_scores are different"),
        ((f'["snip", {INVERTED}]', "[]"), "need weight_scores, and those need such arms"),
        ((str(SCORED).replace("'", '"'), '["lottery ticket"]'), "need weight_scores, and those need such arms"),
        (("weights<=20%", "macs<=20%"), "arms of single weights need budgets"),
        (("\n[scratch]\nepochs = 1\nbatch_size = 64\nlearning_rate = 0.1\n", ""), "scratch arms need"),
    ],
)
def test_nonsense_is_refused(tmp_path, change: tuple[str, str], message: str) -> None:
    assert change[0] in TEXT
    with pytest.raises(PruneError, match=message):
        make_workspace(tmp_path, TEXT.replace(*change, 1))


def test_an_interrupted_training_ends_as_without_a_break(done: Workspace, tmp_path, monkeypatch) -> None:
    import scionet.training.run as run_module

    class Killed(BaseException):
        """As a signal ends a process."""

    text = TEXT.replace(str(SCORED).replace("'", '"'), '["masked scratch-b"]')
    workspace, saved, save = make_workspace(tmp_path, text), [0], run_module.save_state

    def mortal(path, state) -> None:
        saved[0] += 1
        if saved[0] % 4 == 0:
            raise Killed
        save(path, state)

    monkeypatch.setattr(run_module, "save_state", mortal)
    kills = 0
    while any(each.state != "done" for each in standings(workspace)):
        try:
            run(workspace, backend="sequential", threads=1)
        except Killed:
            kills += 1
    assert kills >= 2
    for record in load_all(workspace.records):
        whole = record_of(done, "masked scratch-b", record.spec.method.removesuffix(" + masked scratch-b"))
        assert (record.answers, record.masks, record.sweep) == (whole.answers, whole.masks, whole.sweep)
