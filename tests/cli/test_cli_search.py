"""scionet search: what it saves, how it resumes, and what it refuses."""

from pathlib import Path

import pytest
import torch
from support.commandline import CLASSES, TEST

from scionet.cli import main
from scionet.files.safetensors_files import hash_tensors
from scionet.models.factory import build
from scionet.network.calling import state_of
from scionet.search.architecture import read_architecture
from scionet.search.found_files import FOUND, FoundHeader, load_searched
from scionet.training.run import TrainingRun

BASE = [
    *("search", "--model", "scionet:small_vgg", "--weights", "vgg.pt", "--data", "pictures", "--split", "train"),
    *("--preprocessing", "cifar", "--epochs", "2", "--batch-size", "4", "--threads", "1", "--quiet"),
    *("--architecture-search.learning-rate", "0.5", "--architecture-search.tolerance-below", "0.5"),
]


@pytest.fixture
def ready(at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with the pictures and the weights of a small network."""
    (tmp_path / "pictures").symlink_to(at_home / "pictures")
    torch.manual_seed(0)
    torch.save(build("scionet:small_vgg").state_dict(), tmp_path / "vgg.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_saves_what_it_found(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--budget", "macs<=60%", "--evaluate-split", "test", "--figures", "figures", "--train-epochs", "1"]
    assert main([*[flag for flag in BASE if flag != "--quiet"], *flags, "--out", "found.safetensors"]) == 0
    said = capsys.readouterr()
    assert f"accuracy ({CLASSES * TEST} pictures)" in said.out
    assert "the architecture is that of epoch" in said.out
    architecture = read_architecture("found.config")
    header = FOUND.header(FoundHeader, "found.safetensors")
    assert (header.xchannels, header.factory) == (architecture.xchannels, "scionet:small_vgg")
    network = load_searched("found.safetensors")
    assert {path.name for path in (ready / "figures").iterdir()} == {"probabilities.svg", "macs.svg"}
    assert not list(ready.glob("*.training*"))
    command = said.err.split("  scionet ")[1].splitlines()[0].replace("'", "").split()
    assert main([*command, "--split", "test", "--preprocessing", "cifar", "--json", "a.json", "--threads", "1"]) == 0
    again = load_searched("found.safetensors", build("scionet:small_vgg"))
    assert hash_tensors(state_of(network)) == hash_tensors(state_of(again))


def test_it_goes_on_where_it_was_interrupted(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*BASE, "--budget", "macs<=60%", "--save-steps", "1"]
    assert main([*command, "--out", "whole.safetensors"]) == 0
    inner, seen = TrainingRun._learn, []

    def interrupted(self: TrainingRun, parts: list) -> None:
        seen.append(1)
        if len(seen) in (7, 20):  # in the search, and in the training of what was found
            raise KeyboardInterrupt
        inner(self, parts)

    monkeypatch.setattr(TrainingRun, "_learn", interrupted)
    for _ in range(2):
        assert main([*command, "--out", "broken.safetensors"]) == 130
        assert (ready / "broken.training.safetensors").exists()
    assert main([*command, "--out", "broken.safetensors"]) == 0
    assert (ready / "whole.safetensors").read_bytes() == (ready / "broken.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget", "macs<=1%"], "cheapest architecture"),
        (["--budget", "params<=50%"], "limits MACs alone"),
        (["--budget", "macs<=50%", "--teacher-weight", "0.5"], "give --distillation"),
        (["--budget", "macs<=50%", "--architecture-search.choose", "best"], "give validation="),
        (["--budget", "macs<=50%", "--model", "scionet:mobilenet_v1", "--distillation", "2"], "teacher_weight lie"),
    ],
)
def test_wrong_input_is_refused(
    flags: list[str], message: str, ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BASE, *flags, "--out", "found.safetensors"]) == 1
    assert message in capsys.readouterr().err
    assert not (ready / "found.config").exists()


def test_a_teacher_must_be_trained(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = [flag for flag in BASE if flag not in ("--weights", "vgg.pt")]
    assert main([*without, "--budget", "macs<=60%", "--out", "found.safetensors"]) == 1
    assert "must be trained: give --weights FILE, or --distillation 0" in capsys.readouterr().err
