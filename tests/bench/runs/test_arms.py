"""Arms, ledger, experiments as data, and the parts of their data."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.bench_trials import TOML, make_workspace, written

from scionet.bench.experiment.arms import ARMS, epochs_of
from scionet.bench.experiment.experiment import Experiment
from scionet.bench.experiment.parts import Data
from scionet.bench.records.ledger import Payment, total
from scionet.bench.records.record_files import RecordError
from scionet.bench.runs.data import RunData
from scionet.errors import InvalidSetting, PruneError


@pytest.mark.parametrize(
    ("dense", "pruned", "epochs", "cap", "expected"),
    [  # the rows of Liu et al. whose counts are checked: VGG-16-A, ResNet-56-A, -110-B, -34-A, ThiNet-70, ThiNet-30
        (313_463_808, 206_279_680, 160, None, 243),
        (125_485_696, 112_435_840, 160, None, 178),
        (252_887_680, 155_124_352, 160, None, 260),
        (3_663_761_408, 3_100_184_576, 90, None, 106),
        (4_089_184_256, 2_601_392_356, 90, 2.0, 141),
        (4_089_184_256, 1_166_283_835, 90, 2.0, 180),
    ],
)
def test_scratch_b_epochs_are_the_published_ones(
    dense: int, pruned: int, epochs: float, cap: float | None, expected: int
) -> None:
    assert epochs_of(ARMS["scratch-b"], epochs, dense / pruned, cap) == expected
    assert epochs_of(ARMS["scratch-e"], epochs, dense / pruned, cap) == epochs


def test_scratch_b_never_trains_less() -> None:
    grown = [epochs_of(ARMS["scratch-b"], 2.5, ratio, None) for ratio in np.linspace(1, 9, 60)]
    assert grown == sorted(grown)
    assert grown[0] == 2.5


def test_the_ledger_adds_up() -> None:
    ledger = [Payment("training", 10, 30.0, 1.0), Payment("tuning", 20, 60.0, 2.0), Payment("training", 1, 3.0, 0.5)]
    assert total(ledger) == (31, 93.0, 3.5)
    assert total(ledger, "training") == (11, 33.0, 1.5)
    assert total(ledger, "selection") == (0, 0, 0)
    with pytest.raises(RecordError, match="a payment is for one of dense training"):
        Payment("coffee", 1, 1.0, 1.0)


def test_an_experiment_is_its_runs(tmp_path) -> None:
    workspace = make_workspace(tmp_path)
    trials = workspace.experiment.trials()
    assert len(trials) == 3 * 2 * 2
    assert [t.arm.name for t in trials[:4]] == ["as cut"] * 4
    specs = [workspace.spec(trial) for trial in trials]
    assert len({spec.run_id for spec in specs}) == len(specs)
    assert {spec.method for spec in specs} == {
        f"{who}{arm}" for who in ("l1", "random") for arm in ("", " + fine-tuned", " + scratch-b")
    }


def test_what_changes_the_result_changes_the_identity_and_nothing_else_does(tmp_path) -> None:
    workspace = make_workspace(tmp_path)
    tuned = next(t for t in workspace.experiment.trials() if t.arm.name == "fine-tuned")
    cut = replace(tuned, arm=ARMS["as cut"])
    other = replace(
        workspace.experiment, finetuning=replace(workspace.experiment.finetuning, epochs=2.0), arms=("fine-tuned",)
    )

    def ids(experiment: Experiment) -> list[str]:
        return [experiment.spec(trial, "dense").run_id for trial in (tuned, cut)]

    assert ids(other)[0] != ids(workspace.experiment)[0]
    assert ids(other)[1] == ids(workspace.experiment)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"as cut"', '"as cutt"'), r"unknown arm 'as cutt'.*Did you mean 'as cut'"),
        (('"l1"', '"l7"'), "unknown competitor 'l7'"),
        (("seeds = [0, 1]", "seeds = []"), "arms, seeds and budgets have at least one entry each"),
        (("seeds = [0, 1]", "seeds = [1, 1]"), "seeds are different"),
        (("validation = 100", "validation = 0"), "arms that train need validation examples"),
        (("learning_rates = [0.5, 1.0]", "learning_rates = [0]"), "learning_rates are"),
        (("[scratch]", "[scrach]"), "experiment.scrach is unknown"),
        (('name = "small"', ""), "experiment.name is missing"),
        (("epochs = 1", "epochs = -1"), "epochs is above 0"),
        (("calibration = 64", 'calibration = "many"'), "experiment.data.calibration must be of type int"),
        (('name = "small"', "name = "), "is no TOML file"),
        (("[finetuning]", '[finetuning]\nrecipe = "fast"'), "unknown recipe 'fast'"),
        (("[finetuning]", '[finetuning]\noptimiser = "sdg"'), "optimiser must be one of 'sgd', 'adam', 'adamw'"),
        (('name = "small"', 'name = "small"\nlatency_batch = 65'), "latency_batch is 1 or more, at most batch_size"),
        (('name = "small"', 'name = "small"\nlatency_batch = 0'), "latency_batch is 1 or more"),
        (('arms = ["as cut",', 'arms = ["stock scratch-e",'), "stock arms need stock networks"),
        (
            ('factory = "scionet:digits_cnn"', 'factory = "scionet:digits_cnn"\nweights = "w.safetensors"'),
            "pretraining",
        ),
    ],
)
def test_nonsense_is_refused(tmp_path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(PruneError, match=message):
        Experiment.read(written(tmp_path, TOML.replace(*change, 1)))


def test_parts_are_apart_and_the_same_for_the_same_seed() -> None:
    data = Data("digits", calibration=50, validation=100, train=200)
    one, again, other = (RunData.of(data, None, seed) for seed in (0, 0, 1))  # type: ignore[arg-type]
    assert np.array_equal(one.indices, again.indices)
    assert not np.array_equal(one.indices, other.indices)
    pictures = {bytes(x.numpy().tobytes()) for x, _ in (one.train.choose(one.indices, None)[i] for i in range(200))}
    validation = {bytes(one.validation[i][0].numpy().tobytes()) for i in range(100)}
    calibration = {bytes(x.numpy().tobytes()) for x, _ in one.calibration for x in x}
    assert not pictures & validation
    assert calibration <= pictures
    assert len(one.calibration[0][1]) == 50
    assert sum(len(labels) for _, labels in one.test) == 360
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one.test, other.test, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": 1400, "validation": 100}, "leaves 1437 training examples"),
        ({"test": 10}, "digits has a test part; given test = 10"),
        ({"train": 2000}, "2000 training examples requested; give 1 to 1337, the size of the rest"),
        ({"calibration": 0}, "calibration"),
    ],
)
def test_too_few_examples_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        RunData.of(replace(Data("digits", 50, 100), **changes), None, 0)  # type: ignore[arg-type]


def test_the_arms_cover_what_is_inherited_and_what_is_not() -> None:
    assert all(arm.summary for arm in ARMS.values())
    untrained = {arm.weights for arm in ARMS.values() if arm.training == "scratch" and arm.masks != "initial"}
    assert untrained == {"new"}
    assert {arm.weights for arm in ARMS.values() if arm.masks == "initial"} == {"first", "new"}
    assert all((arm.subject == "masked") == arm.masked and arm.shuffled <= arm.masked for arm in ARMS.values())
    assert {arm.weights for arm in ARMS.values() if arm.training in ("none", "finetuning")} == {"kept"}
    assert math.isclose(epochs_of(ARMS["fine-tuned"], 3, 5.0, None), 3)
