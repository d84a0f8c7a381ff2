"""Lottery tickets: the rounds as they are defined, their controls, what they pay, and what an interruption changes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.bench_trials import TOML, make_workspace
from torch import Tensor, nn

import scionet.training.run as run_module
from scionet.bench.experiment.arms import ARMS
from scionet.bench.experiment.densities import Tickets, density_of, of_weights, rounds
from scionet.bench.experiment.parts import Trial
from scionet.bench.records.ledger import total
from scionet.bench.records.record import RunRecord, encode_answers
from scionet.bench.records.store import load_all
from scionet.bench.runs.grid import run, standings
from scionet.bench.runs.workspace import Workspace, made
from scionet.errors import InvalidSetting, PruneError
from scionet.masks.weight_masks import WeightMasks
from scionet.masks.weights import maskable
from scionet.seeds import root
from scionet.training.accuracy import correct_predictions
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.fit import fit
from scionet.training.recipes import Recipe
from scionet.training.state import load_state

MASKED = [arm.name for arm in ARMS.values() if arm.masks == "rounds"]
TICKETS = (
    TOML.replace('["as cut", "fine-tuned", "scratch-b"]', str(MASKED).replace("'", '"'))
    .replace("seeds = [0, 1]", "seeds = [0]")
    .replace('["macs<=60%"]', '["weights<=25%"]')
    .replace("epochs = 1", "epochs = 2")
    + "\n[tickets]\nround_density = 0.5\n"
)
EPOCH = 192


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("tickets"), TICKETS)
    assert {each.state for each in run(workspace, backend="sequential", threads=1)} == {"done"}
    return workspace


def trial_of(workspace: Workspace, arm: str, budget: str = "weights<=25%") -> Trial:
    trial = next(trial for trial in workspace.experiment.trials() if trial.arm.name == arm)
    return replace(trial, budget=budget)


def record_of(workspace: Workspace, arm: str) -> RunRecord:
    return next(record for record in load_all(workspace.records) if record.spec.method == arm)


def file_of(workspace: Workspace, arm: str, part: str, budget: str = "weights<=25%", rate: float = 1.0) -> Path:
    short = workspace.spec(trial_of(workspace, arm, budget)).short_id
    return workspace.out / "tickets" / f"{short}-rate-{rate:g}-{part}.safetensors"


def learnt(workspace: Workspace, model: nn.Module, recipe: Recipe, masks: dict[str, Tensor], **more) -> nn.Module:
    """The definition: after every step, what is masked is zero again."""

    class Zeroed(Callback):
        def after_step(self, context: TrainingContext) -> None:
            with torch.no_grad():
                for name, mask in masks.items():
                    context.network.get_parameter(name)[~mask] = 0

    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name)[~mask] = 0
    material = workspace.material(0)
    data, validation = material.training(recipe), material.validation
    fit(model, data, recipe, validation=validation, callbacks=(Zeroed(),), **{"seed": 0, **more})
    return model


def largest(model: nn.Module, count: int, within: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The definition: sort all magnitudes that are left."""
    weights = {name: w.abs() if within is None else w.abs() * within[name] for name, w in maskable(model).items()}
    threshold = torch.cat([w.flatten() for w in weights.values()]).sort(descending=True).values[count - 1]
    return {name: w >= threshold for name, w in weights.items()}


def rates(workspace: Workspace, recipe: Recipe) -> list[Recipe]:
    return [replace(recipe, learning_rate=factor * recipe.learning_rate) for factor in (0.5, 1.0)]


def answers(workspace: Workspace, model: nn.Module) -> str:
    return encode_answers(correct_predictions(model.eval(), workspace.material(0).test, False).cpu().numpy())


def test_a_lottery_ticket_is_what_its_definition_says(done: Workspace) -> None:
    record, network = record_of(done, "lottery ticket"), done.experiment.network
    sizes = sum(w.numel() for w in maskable(made(network, 0)).values())
    found = []
    for factor, recipe in zip((0.5, 1.0), rates(done, done.experiment.pretraining), strict=True):
        model, masks = learnt(done, made(network, 0), recipe, {}), None
        for density in (0.5, 0.25):
            masks = largest(model, int(density * sizes + 0.5), masks)
            model = learnt(done, made(network, 0), recipe, masks)
        reached = load_state(file_of(done, "lottery ticket", "state", rate=factor)).network
        assert all(torch.equal(tensor, reached[name]) for name, tensor in model.state_dict().items())
        found.append(answers(done, model))
    assert [tried.learning_rate for tried in record.sweep] == [0.05, 0.1]
    place = max((0, 1), key=lambda place: (record.sweep[place].correct, -place))
    assert record.answers == found[place]


def test_late_rewinding_and_its_kin_are_what_their_definitions_say(done: Workspace) -> None:
    network, recipe = done.experiment.network, done.experiment.pretraining
    early = made(network, 0)
    state = fit(early, done.material(0).training(recipe), recipe, validation=done.material(0).validation, until=1).state
    first = dict(WeightMasks.load(file_of(done, "late rewinding", "masks", "weights<=50%")))
    held = {name: t * first[name] if name in first else t for name, t in state.network.items()}
    memory = {
        name: {k: v * first[name] if name in first else v for k, v in kept.items()}
        for name, kept in state.memory.items()
    }
    again = learnt(
        done, made(network, 0), recipe, first, start=replace(state.with_new_callbacks(), network=held, memory=memory)
    )
    reached = load_state(file_of(done, "late rewinding", "state", "weights<=50%")).network
    assert all(torch.equal(tensor, reached[name]) for name, tensor in again.state_dict().items())

    for arm, own in (("learning-rate rewinding", recipe), ("fine-tuned rounds", done.experiment.finetuning)):
        before = load_state(file_of(done, arm, "state", "weights<=50%")).network
        masks = dict(WeightMasks.load(file_of(done, arm, "masks")))
        kept = made(network, 0)
        kept.load_state_dict(before)
        kept = learnt(done, kept, own, masks, seed=root(0, "round", "weights<=25%"))
        reached = load_state(file_of(done, arm, "state")).network
        assert all(torch.equal(tensor, reached[name]) for name, tensor in kept.state_dict().items()), arm


@pytest.mark.parametrize("arm", MASKED)
def test_counts_are_exact_masks_are_nested_and_what_they_remove_is_zero(done: Workspace, arm: str) -> None:
    record, masks_of = record_of(done, arm), arm if "ticket" not in arm else "lottery ticket"
    wide, narrow = (WeightMasks.load(file_of(done, masks_of, "masks", f"weights<={p}%")) for p in (50, 25))
    total_weights = sum(mask.numel() for mask in narrow.values())
    assert sum(wide.counts.values()) == int(0.5 * total_weights + 0.5)
    assert sum(narrow.counts.values()) == int(0.25 * total_weights + 0.5)
    assert not any(bool((narrow[name] & ~wide[name]).any()) for name in narrow)
    assert record.pruned.macs == record.dense.macs
    assert "no MACs are saved" in record.notes[0]
    assert record.pruned.params == record.dense.params - total_weights + sum(narrow.counts.values())
    final = load_state(file_of(done, arm, "state")).network
    if arm == "shuffled ticket":
        zeros = {name: int((final[name] == 0).sum()) for name in narrow}
        assert zeros == {name: narrow[name].numel() - n for name, n in narrow.counts.items()}
        assert any(bool(final[name][~narrow[name]].any()) for name in narrow)
    else:
        assert all(torch.equal(final[name] != 0, narrow[name]) for name in narrow)


def test_the_controls_begin_where_they_should(done: Workspace) -> None:
    network, recipe = done.experiment.network, done.experiment.pretraining
    masks = dict(WeightMasks.load(file_of(done, "lottery ticket", "masks")))
    new = learnt(done, made(network, root(0, "re-initialised")), recipe, masks)
    reached = load_state(file_of(done, "re-initialised ticket", "state")).network
    assert all(torch.equal(tensor, reached[name]) for name, tensor in new.state_dict().items())
    shuffled = dict(WeightMasks(masks).shuffled(root(0, "shuffled")))
    other = learnt(done, made(network, 0), recipe, shuffled)
    reached = load_state(file_of(done, "shuffled ticket", "state")).network
    assert all(torch.equal(tensor, reached[name]) for name, tensor in other.state_dict().items())


def test_all_rounds_are_paid_for(done: Workspace) -> None:
    macs = record_of(done, "lottery ticket").dense.macs

    def images(arm: str) -> list[int]:
        ledger = record_of(done, arm).ledger
        assert {p.macs / p.images for p in ledger} == {macs, 3 * macs}  # of measuring, and of training
        return [total(ledger, stage)[0] for stage in ("dense training", "selection", "tuning", "training")]

    cycle, dense = 2 * EPOCH, 2 * EPOCH + 2 * 100  # the dense training, as everywhere, with its validation
    for arm in ("lottery ticket", "learning-rate rewinding", "re-initialised ticket", "shuffled ticket"):
        assert images(arm) == [dense, cycle, dense + 2 * cycle, cycle]
    assert images("late rewinding") == [dense, EPOCH, dense + 2 * EPOCH, EPOCH]  # rounds begin after the first epoch
    assert images("fine-tuned rounds") == [dense, cycle, 2 * cycle, cycle]  # one dense network for all rates
    assert total(record_of(done, "late rewinding").ledger, "validation")[0] == 2 * 100 * (1 + 1)
    assert total(record_of(done, "lottery ticket").ledger, "validation")[0] == 2 * 100 * (2 + 2)


def test_rounds_of_wider_budgets_are_not_done_again(done: Workspace, tmp_path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done.out / "tickets").glob("*-state.safetensors")}
    text = TICKETS.replace('["weights<=25%"]', '["weights<=25%", "weights<=20%", "weights<=50%"]')
    text = text.replace(str(MASKED).replace("'", '"'), '["lottery ticket"]')
    workspace = replace(make_workspace(tmp_path, text), out=done.out)
    assert {each.state for each in run(workspace, backend="sequential", threads=1)} == {"done"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    new = set((done.out / "tickets").glob("*-state.safetensors")) - set(before)
    assert len(new) == 2  # the round to 20 %, at two learning rates


class Killed(BaseException):
    """As a signal ends a process: nobody catches it."""


def test_killed_at_any_moment_it_ends_as_without_a_break(done: Workspace, tmp_path, monkeypatch) -> None:
    text = TICKETS.replace(str(MASKED).replace("'", '"'), '["late rewinding", "shuffled ticket"]')
    workspace, saved, kills = make_workspace(tmp_path, text), [0], 0
    save = run_module.save_state

    def mortal(path, state) -> None:
        saved[0] += 1
        if saved[0] % 5 == 0:
            raise Killed
        save(path, state)

    monkeypatch.setattr(run_module, "save_state", mortal)
    while any(each.state != "done" for each in standings(workspace)):
        try:
            run(workspace, backend="sequential", threads=1)
        except Killed:
            kills += 1
    assert kills > 3
    for record in load_all(workspace.records):
        whole = record_of(done, record.spec.method)
        assert (record.answers, record.sweep, record.pruned) == (whole.answers, whole.sweep, whole.pruned)
        assert [(p.stage, p.images) for p in record.ledger] == [(p.stage, p.images) for p in whole.ledger]


def test_budgets_are_densities_and_lead_down_in_rounds() -> None:
    assert of_weights("weights<=20%")
    assert not of_weights("macs<=20%")
    assert density_of("weights <= 12.5 %") == 0.125
    assert rounds("weights<=12.5%", 0.5) == ("weights<=50%", "weights<=25%", "weights<=12.5%")
    assert rounds("weights<=20%", 0.5) == ("weights<=50%", "weights<=25%", "weights<=20%")
    assert rounds("weights<=60%", 0.5) == ("weights<=60%",)
    assert len(rounds("weights<=10.73741824%", 0.8)) == 10  # 0.8^10, whatever floating point makes of it
    densities = [density_of(budget) for budget in rounds("weights<=0.48%", 0.8)]
    assert np.allclose(densities[:-1], 0.8 ** np.arange(1, 24))
    assert densities[-1] == 0.0048
    for wrong in ("weights<=0%", "weights<=100%", "weights<=1.2M", "weights<=-3%", "weights<20%"):
        with pytest.raises(InvalidSetting, match="a budget of single weights is above 0% and below 100%"):
            density_of(wrong)
    with pytest.raises(InvalidSetting, match="round_density lies inside"):
        Tickets(round_density=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"weights<=25%"', '"macs<=25%"'), "arms of single weights need budgets such as"),
        (('"weights<=25%"', '"weights<=250%"'), "above 0% and below 100%"),
        (('arms = ["lottery ticket"', 'arms = ["as cut", "lottery ticket"'), "arms of smaller networks need budgets"),
        (("round_density = 0.5", "rewind_epoch = 2"), "rewind_epoch is less than the epochs"),
        (("round_density = 0.5", "density = 0.5"), "experiment.tickets.density is unknown"),
        (
            ('factory = "scionet:digits_cnn"', 'factory = "scionet:digits_cnn"\nweights = "w.safetensors"'),
            "pretraining",
        ),
    ],
)
def test_nonsense_is_refused(tmp_path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(PruneError, match=message):
        make_workspace(tmp_path, TICKETS.replace(*change, 1))


def test_each_arm_gets_its_own_budgets(tmp_path) -> None:
    text = TOML.replace('["macs<=60%"]', '["macs<=60%", "weights<=25%"]').replace(
        '"as cut",', '"as cut", "late rewinding",'
    )
    workspace = make_workspace(tmp_path, text.replace("epochs = 1", "epochs = 2"))
    trials = workspace.experiment.trials()
    assert {(t.arm.masked, t.budget) for t in trials} == {(True, "weights<=25%"), (False, "macs<=60%")}
    specs = {trial.arm.name: workspace.spec(trial).settings for trial in trials}
    assert "tickets" in specs["late rewinding"]
    assert "tickets" not in specs["as cut"]
    assert json.loads(json.dumps(specs["late rewinding"]["recipe"]))["epochs"] == 2


def test_a_layer_that_is_emptied_is_a_failure_with_a_reason(tmp_path) -> None:
    text = TICKETS.replace(str(MASKED).replace("'", '"'), '["lottery ticket"]').replace("weights<=25%", "weights<=0.1%")
    [found] = run(make_workspace(tmp_path, text.replace("0.5\n", "0.01\n")), backend="sequential", threads=1)
    assert found.failure is not None
    assert found.failure.kind == "LayerCollapse"


@pytest.mark.filterwarnings("ignore:min_per_layer=2 applies")
def test_layers_and_minima_are_respected(tmp_path) -> None:
    text = TICKETS.replace(str(MASKED).replace("'", '"'), '["lottery ticket"]').replace("weights<=25%", "weights<=0.1%")
    text = text.replace("0.5\n", '0.01\nmin_per_layer = 2\nignored_layers = ["linear"]\n')
    workspace = make_workspace(tmp_path, text)
    [found] = run(workspace, backend="sequential", threads=1)
    assert found.record is not None
    masks = WeightMasks.load(file_of(workspace, "lottery ticket", "masks", "weights<=0.1%"))
    assert min(masks.counts.values()) >= 2
    assert "linear.weight" not in masks
    assert found.record.dense.params - found.record.pruned.params == sum(int((~m).sum()) for m in masks.values())
