import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from support.commandline import CLASSES, TEST, TRAIN

from scionet.cli import main
from scionet.commands.pictures import ImageSample
from scionet.data.augmentation import Augmentation
from scionet.data.examples import ImageExamples
from scionet.data.folders import ImageFolder
from scionet.data.images import Preprocessing
from scionet.data.sampling import partition
from scionet.files.safetensors_files import hash_tensors
from scionet.models.factory import load_weights
from scionet.network.calling import state_of
from scionet.network.checkpoints.checkpoint import dense_network, describe, load_pruned, read_plan, save_pruned
from scionet.network.discovery.discover import discover
from scionet.network.surgery.cut import cut
from scionet.training.fit import fit
from scionet.training.recipes import RECIPES
from scionet.training.state import load_state

ALL = CLASSES * TRAIN
BASE = ["finetune", "--pruned", "half.safetensors", "--data", "pictures", "--split", "train", "--threads", "1"]
SHORT = ["--epochs", "1", "--batch-size", "8"]
LONG = ["--epochs", "5", "--batch-size", "8", "--save-steps", "1", "--seed", "1"]


@pytest.fixture
def ready(at_home: Path, pruned: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with the pictures, the pruned network and the dense weights."""
    for name in ("half.safetensors", "weights.pt"):
        shutil.copy(at_home / name, tmp_path)
    (tmp_path / "pictures").symlink_to(at_home / "pictures")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_saves_what_fit_makes(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ["--recipe", "rethinking_cifar_finetune", *SHORT, "--label-smoothing", "0.1", "--seed", "5"]
    flags = ["--validation-images", "10", "--out", "tuned.safetensors", "--evaluate-split", "test", "--quiet"]
    assert main([*BASE, *recipe, *flags]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert f"accuracy ({CLASSES * TEST} pictures)" in shown.out
    assert "finished: 3 of 3 steps, epoch 1" in shown.out
    assert "saved to tuned.safetensors" in shown.out
    assert sorted(path.name for path in ready.iterdir()) == [
        "half.safetensors",
        "pictures",
        "tuned.safetensors",
        "weights.pt",
    ]
    folder = ImageFolder("pictures", "train")
    sampled = ImageSample.of(folder, ALL, 5)[1]
    parts = partition(ALL, {"validation": 10}, 5)
    settings = RECIPES["rethinking_cifar_finetune"](epochs=1, batch_size=8, label_smoothing=0.1)
    expected = load_pruned("half.safetensors")
    data = ImageExamples(folder, Preprocessing(), sampled[parts["train"]], Augmentation("shift"))
    result = fit(expected, data, settings, seed=5)
    tuned = load_pruned("tuned.safetensors")
    assert hash_tensors(state_of(tuned)) == hash_tensors(state_of(expected))
    assert read_plan("tuned.safetensors").to_json() == read_plan("half.safetensors").to_json()
    told = describe("tuned.safetensors")["extra"]["training"]
    assert told["recipe"] == "rethinking_cifar_finetune"
    assert told["status"] == result.status
    assert told["settings"] == {**asdict(settings), "milestones": [0.5, 0.75], "features": []}
    assert told["history"][0]["validation"]["seen"] == 10


def test_accuracies_before_and_after_are_those_of_the_files(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = ["--data", "pictures", "--split", "test", "--quiet"]
    flags = ["--out", "tuned.safetensors", "--evaluate-split", "test", "--learning-rate", "0.1", "--quiet"]
    assert main([*BASE, *SHORT, *flags]) == 0
    row = next(x for x in capsys.readouterr().out.splitlines() if "accuracy" in x)
    rates = re.findall(r"([\d.]+) %", row)
    for name, rate in zip(("half", "tuned"), rates, strict=True):
        assert main(["evaluate", "--pruned", f"{name}.safetensors", *test]) == 0
        assert f"{rate} %" in capsys.readouterr().out


def test_pictures_of_the_training_are_seen_later(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = ["--train-images", "8", "--validation-images", "2", "--evaluate-rest", "--out", "tuned.safetensors"]
    assert main([*BASE, *SHORT, *some, "--quiet"]) == 0
    rest = re.findall(r"accuracy \((\d+) pictures\)", capsys.readouterr().out)
    evaluate = ["evaluate", "--pruned", "tuned.safetensors", "--data", "pictures", "--split", "train", "--quiet"]
    assert main(evaluate) == 0
    shown = capsys.readouterr()
    assert f"{ALL - int(rest[0])} of these {ALL} pictures were seen in calibration or training" in shown.err
    assert 16 <= ALL - int(rest[0]) <= 26
    assert main([*evaluate, "--exclude-calibration-of", "tuned.safetensors"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert f"of {rest[0]})" in shown.out


@pytest.fixture(scope="module")
def unbroken(home: Path, pruned: object) -> str:
    """The weights after the long training without a break."""
    with chdir(home):
        assert main([*BASE, *LONG, "--quiet", "--out", "unbroken.safetensors"]) == 0
        return hash_tensors(state_of(load_pruned("unbroken.safetensors")))


def test_it_goes_on_after_ctrl_c(ready: Path, unbroken: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "scionet", *BASE, *LONG, "--out", "broken.safetensors"]
    state = ready / "broken.training.safetensors"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (state.exists() and load_state(state).step >= 6):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "broken.training.safetensors holds where the training stands" in err
    assert not (ready / "broken.safetensors").exists()
    assert main([*BASE, *LONG, "--learning-rate", "0.5", "--out", "broken.safetensors"]) == 1
    assert "recipe.learning_rate was 0.01, is 0.5); give those, or delete broken." in capsys.readouterr().err
    assert main([*BASE, *LONG, "--out", "broken.safetensors"]) == 0
    assert "going on from broken.training.safetensors" in capsys.readouterr().err
    assert hash_tensors(state_of(load_pruned("broken.safetensors"))) == unbroken
    assert not list(ready.glob("*.training.safetensors"))


def other_network(folder: Path) -> None:
    """Write a network of the widths of half.safetensors that keeps other channels."""
    plan, dense = read_plan(folder / "half.safetensors"), dense_network(folder / "half.safetensors")
    load_weights(dense, folder / "weights.pt")
    sites = discover(dense, torch.zeros(1, 3, 32, 32))
    choices = [
        replace(c, kept=tuple(range(c.width))[-len(c.kept) :], weights=(1.0,) * len(c.kept), order=(), values=())
        for c in plan.choices
    ]
    other = replace(plan, choices=tuple(choices))
    pruned, extra = cut(dense, other, sites), describe(folder / "half.safetensors")["extra"]
    save_pruned(folder / "other.safetensors", pruned, other, sites, factory="scionet:resnet20", extra=extra)


def test_a_killed_training_goes_on_with_its_own_network_only(
    ready: Path, unbroken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed again and again: `tests/training/test_kill.py`."""
    other_network(ready)
    long = [*LONG, "--out", "tuned.safetensors"]
    command, state = [sys.executable, "-m", "scionet", *BASE, *long], ready / "tuned.training.safetensors"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (state.exists() and load_state(state).step >= 2):
            time.sleep(0.1)
        assert main([*BASE, *long]) == 1
        assert "another process is at a fine-tuning that writes tuned.safetensors" in capsys.readouterr().err
        process.kill()
    assert process.returncode == -signal.SIGKILL
    content = state.read_bytes()
    assert main(["finetune", "--pruned", "other.safetensors", *BASE[3:], *long]) == 1
    shown = capsys.readouterr().err
    assert "depends_on.plan was" in shown
    assert "weights was" in shown
    assert "delete tuned.training.safetensors to start again" in shown
    assert state.read_bytes() == content
    assert main([*BASE, *long]) == 0
    assert hash_tensors(state_of(load_pruned("tuned.safetensors"))) == unbroken
    assert not [path.name for path in ready.iterdir() if path.name.startswith(".")]


def test_the_dense_network_teaches(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--teacher-weight", "0.9", "--teacher-weights", "weights.pt", "--features", "linear", "--quiet"]
    assert main([*BASE, *SHORT, *flags, "--out", "taught.safetensors"]) == 0
    assert describe("taught.safetensors")["extra"]["training"]["settings"]["teacher_weight"] == 0.9


def test_restart_begins_again(ready: Path) -> None:
    (ready / "new.training.safetensors").write_text("of another kind")
    assert main([*BASE, *SHORT, "--quiet", "--out", "new.safetensors"]) == 1
    assert main([*BASE, *SHORT, "--quiet", "--out", "new.safetensors", "--restart"]) == 0


def test_a_toml_file(ready: Path) -> None:
    (ready / "tune.toml").write_text(
        'pruned = "half.safetensors"\nrecipe = "rethinking_cifar"\nthreads = 1\nout = "x.safetensors"\n'
        '[pictures]\ndata = "pictures"\nsplit = "train"\n'
        "[settings]\nepochs = 1\nbatch_size = 20\noptimiser = 'adam'\nl1_weight = 1e-5\n"
        "[settings.optimiser_settings]\nbetas = [0.8, 0.9]\namsgrad = true\n[execution]\nparts = 2\n"
    )
    assert main(["finetune", "--config", "tune.toml", "--quiet", "--learning-rate", "0.3"]) == 0
    settings = describe("x.safetensors")["extra"]["training"]["settings"]
    assert settings["learning_rate"] == 0.3
    assert settings["batch_size"] == 20
    assert settings["nesterov"] is False
    assert settings["optimiser"] == "adam"
    assert settings["optimiser_settings"] == {"betas": [0.8, 0.9], "amsgrad": True}
    assert "L1Penalty" in describe("x.safetensors")["extra"]["training"]["history"][0]["penalties"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--recipe", "rethinking_cifr"], r"unknown recipe 'rethinking_cifr'.* Did you mean 'rethinking_cifar'"),
        (["--out", "half.safetensors"], "half.safetensors exists; give another name"),
        (["--out", "missing/x.safetensors"], "in an existing, writable folder"),
        (["--pruned", "missing.safetensors"], "there is no file missing.safetensors"),
        (["--model", "scionet:resnet56"], "another architecture"),
        (["--split", "valid"], "give the split test or train"),
        (["--train-images", "41"], "41 images requested; give 1 to 40, the size of pictures"),
        (["--validation-images", "40"], "leave some for 'train'"),
        (["--evaluate-rest"], "say by --train-images"),
        (["--evaluate-split", "train"], "split 'train' is seen before"),
        (["--evaluate-images", "3"], "needs --evaluate-split or --evaluate-rest"),
        (["--patience", "2"], "patience needs validation data"),
        (["--batch-size", "64"], "40 training examples do not fill a batch of 64"),
        (["--teacher-weight", "0.5"], "need --teacher-weights"),
        (["--teacher-weights", "weights.pt"], "a teacher needs teacher_weight above 0"),
        (["--features", "conv9", "--teacher-weights", "weights.pt"], "unknown feature of CifarResNet 'conv9'"),
        (["--augmentation", "zoom"], "needs a crop size"),
        (["--precision", "fp16"], "needs a GPU"),
        (["--learning-rate", "1e30"], "the loss is NaN or infinite at step"),
    ],
)
def test_what_is_wrong_is_explained(
    flags: list[str], message: str, ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    assert main([*BASE, "--epochs", "2", "--batch-size", "8", "--out", "x.safetensors", "--quiet", *flags]) == 1
    shown = capsys.readouterr()
    assert re.search(message, shown.err), shown.err
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (ready / "x.safetensors").exists()


@pytest.mark.parametrize("flags", [["--epochs", "x"], ["--epochs", "-1"], ["--schedule", "linear"], ["--parts", "0"]])
def test_usage_errors_exit_with_two(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*BASE, "--out", "x.safetensors", *flags])
    assert end.value.code == 2
