"""scionet shrink: what it saves, how it resumes, and what it refuses."""

import shutil
from pathlib import Path

import pytest
from support.commandline import CLASSES, TEST

from scionet.cli import main
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.network.checkpoints.checkpoint import describe, load_pruned, read_plan
from scionet.training.training_log import TrainingLog

BASE = [
    *("shrink", "--model", "scionet:resnet20", "--weights", "weights.pt", "--data", "pictures", "--split", "train"),
    *("--preprocessing", "cifar", "--epochs", "2", "--batch-size", "8", "--threads", "1", "--quiet"),
]


@pytest.fixture
def ready(at_home: Path, pruned: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with the pictures."""
    (tmp_path / "pictures").symlink_to(at_home / "pictures")
    for name in ("half.safetensors", "weights.pt"):
        shutil.copy(at_home / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_saves_a_cut_network_with_its_trace(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--budget", "macs<=60%", "--method", "increg", "--increg.u", "0.3", "--evaluate-split", "test"]
    assert main([*BASE, *flags, "--out", "small.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert f"accuracy ({CLASSES * TEST} pictures)" in shown
    assert "that were removed had" in shown
    told = describe("small.safetensors")
    assert told["method"] == "increg"
    assert read_plan("small.safetensors").settings["method"]["u"] == 0.3
    assert [row["epoch"] for row in told["extra"]["training"]["trace"]] == [1, 2]
    assert load_pruned("small.safetensors") is not None
    assert not list(ready.glob("*.training.safetensors"))


@pytest.mark.slow  # tests/sparse_training/test_shrinking_kill.py kills in make test
def test_it_goes_on_where_it_was_interrupted(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*BASE, "--budget", "macs<=60%", "--method", "greg1", "--save-steps", "1"]
    assert main([*command, "--out", "whole.safetensors"]) == 0
    inner, seen = TrainingLog.read, []

    def interrupted(self: TrainingLog, step: int) -> None:
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt
        inner(self, step)

    monkeypatch.setattr(TrainingLog, "read", interrupted)
    assert main([*command, "--out", "broken.safetensors"]) == 130
    assert (ready / "broken.training.safetensors").exists()
    monkeypatch.setattr(TrainingLog, "read", inner)
    assert main([*command, "--out", "broken.safetensors"]) == 0
    whole, broken = (hash_tensors(state_of(load_pruned(f"{name}.safetensors"))) for name in ("whole", "broken"))
    assert whole == broken


def test_it_shrinks_towards_the_units_of_a_pruned_network(ready: Path) -> None:
    command = [*BASE, "--method", "greg1", "--towards", "half.safetensors"]
    assert main([*command, "--out", "small.safetensors"]) == 0
    small, half = (read_plan(f"{name}.safetensors").kept for name in ("small", "half"))
    assert {name: small[name] for name in half} == half


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "increg"], "must know how much is to remain"),
        (["--method", "increg", "--slimming.l1-weight", "0.1"], "would do nothing without --method slimming"),
        (["--budget", "macs<=60%", "--teacher-weight", "0.5"], "has no teacher"),
        (["--budget", "macs<=60%", "--average-decay", "0.9"], "leave out average_decay"),
    ],
)
def test_wrong_input_is_refused(
    flags: list[str], message: str, ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BASE, *flags, "--out", "small.safetensors"]) == 1
    assert message in capsys.readouterr().err
