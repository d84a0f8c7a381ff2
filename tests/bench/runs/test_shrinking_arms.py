"""Networks that shrink while they are trained, and their one-shot twins, against plain calls of the library."""

from dataclasses import replace

import pytest
from support.bench_trials import TOML, make_workspace

from scionet import prune
from scionet.bench.experiment.experiment import Experiment
from scionet.bench.records.ledger import PASSES, total
from scionet.bench.records.record import RunRecord, encode_answers
from scionet.bench.records.store import load_all
from scionet.bench.runs.grid import run
from scionet.bench.runs.workspace import Workspace, dense
from scionet.choices.repair import Refit
from scionet.errors import InvalidSetting
from scionet.shrinking import shrink
from scionet.training.accuracy import correct_predictions
from scionet.training.fit import fit

TEXT = (
    TOML.replace('["as cut", "fine-tuned", "scratch-b"]', '["shrunk", "one-shot twin"]')
    .replace("seeds = [0, 1]", "seeds = [0]")
    .replace('competitors = ["l1", "random"]', 'shrinkers = ["increg", {method = "slimming", name = "slim"}]')
) + "[shrinking]\nepochs = 2\nlearning_rate = 0.02\nbatch_size = 64\n"


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("shrinking"), TEXT)
    assert {each.state for each in run(workspace, backend="sequential", threads=1)} == {"done"}
    return workspace


def record_of(workspace: Workspace, method: str) -> RunRecord:
    return next(record for record in load_all(workspace.records) if record.spec.method == method)


def answers(workspace: Workspace, model) -> str:
    return encode_answers(correct_predictions(model.eval(), workspace.material(0).test, False).numpy())


def test_a_network_is_shrunk_then_fine_tuned_and_both_are_paid(done: Workspace) -> None:
    experiment, material = done.experiment, done.material(0)
    recipe, tuning = experiment.shrinking, experiment.finetuning
    assert recipe is not None
    assert tuning is not None
    whole = dense(done, material, 0)
    record = record_of(done, "increg + shrunk")
    result = shrink(
        whole.model,
        material.training(recipe),
        record.spec.budget,
        method="increg",
        recipe=recipe,
        example_inputs=whole.example,
        validation=material.validation,
        seed=0,
    )
    assert {site.name: site.kept for site in record.sites} == result.plan.widths
    assert [dict(row) for row in record.trace] == [dict(row) for row in result.trace]
    tuned = []
    for factor in experiment.learning_rates:
        model = shrink(
            whole.model,
            material.training(recipe),
            record.spec.budget,
            method="increg",
            recipe=recipe,
            example_inputs=whole.example,
            validation=material.validation,
            seed=0,
        ).model
        own = replace(tuning, learning_rate=factor * tuning.learning_rate)
        fit(model, material.training(own), own, validation=material.validation, seed=0)
        tuned.append(answers(done, model))
    assert record.answers in tuned
    images = total(record.ledger, "selection")[0]
    assert images == int(recipe.epochs) * (len(material.training(recipe)) // 64) * 64
    assert total(record.ledger, "selection")[1] == PASSES * whole.note.outcome.macs * images


def test_the_twin_removes_the_units_at_once_and_is_tuned_as_long(done: Workspace) -> None:
    experiment, material = done.experiment, done.material(0)
    recipe, tuning = experiment.shrinking, experiment.finetuning
    assert recipe is not None
    assert tuning is not None
    whole = dense(done, material, 0)
    for label, method, widths in (("increg", "l1", "uniform"), ("slim", "bn_scale", "global")):
        record = record_of(done, f"{label} + one-shot twin")
        assert {tried.epochs for tried in record.sweep} == {recipe.epochs + tuning.epochs}
        plan = prune(
            whole.model,
            material.calibration,
            record.spec.budget,
            example_inputs=whole.example,
            method=method,
            widths=widths,
            repair=[Refit(shrinkage=1.0)],
        ).plan
        assert {site.name: site.kept for site in record.sites} == plan.widths


def test_experiments_without_their_parts_are_refused(tmp_path) -> None:
    for text, message in (
        (TEXT.partition("[shrinking]")[0], "arms that shrink networks need shrinkers and"),
        (TEXT.replace('"increg", ', '"incregg", '), "incregg"),
        (TEXT.replace('name = "slim"', 'name = "increg"'), "shrinkers are different"),
    ):
        path = tmp_path / "experiment.toml"
        path.write_text(text)
        with pytest.raises(InvalidSetting, match=message):
            Experiment.read(path)
