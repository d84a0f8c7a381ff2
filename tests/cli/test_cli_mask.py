"""scionet mask, and what finetune and evaluate do with its file."""

import shutil
from pathlib import Path

import pytest
import torch

from scionet import mask_weights
from scionet.cli import main
from scionet.masks.sparse import load_sparse_
from scionet.masks.sparse_files import read_sparse
from scionet.models.factory import load_weights
from scionet.models.resnets import resnet20

DATA = ["--data", "pictures", "--split", "train", "--preprocessing", "cifar", "--threads", "1", "--quiet"]
MASK = ["mask", "--model", "scionet:resnet20", "--weights", "weights.pt", *DATA, "--out", "sparse.safetensors"]


@pytest.fixture
def ready(at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with the pictures and the weights."""
    (tmp_path / "pictures").symlink_to(at_home / "pictures")
    shutil.copy(at_home / "weights.pt", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_saves_the_masked_weights(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MASK, "--density", "0.2"]) == 0
    assert "saved to sparse.safetensors" in capsys.readouterr().out
    dense, sparse = resnet20(), resnet20()
    load_weights(dense, "weights.pt")
    masks = load_sparse_(sparse, read_sparse("sparse.safetensors"))
    expected = mask_weights(dense, 0.2).masks
    assert all(torch.equal(masks[name], expected[name]) for name in expected)
    for name, mask in masks.items():
        assert torch.equal(sparse.get_parameter(name), dense.get_parameter(name) * mask)


@pytest.mark.parametrize("score", ["synflow", "snip"])
def test_scores_with_and_without_labels(score: str, ready: Path) -> None:
    assert main([*MASK, "--density", "0.5", "--score", score, "--rounds", "2", "--images", "8"]) == 0
    kept = load_sparse_(resnet20(), read_sparse("sparse.safetensors")).density
    assert kept == pytest.approx(0.5, abs=1e-4)


def test_fine_tuning_keeps_the_masks_and_evaluation_reads_the_file(
    ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*MASK, "--density", "0.2"]) == 0
    tune = ["finetune", "--pruned", "sparse.safetensors", *DATA, "--epochs", "1", "--batch-size", "8"]
    assert main([*tune, "--out", "tuned.safetensors"]) == 1
    assert "give its --model" in capsys.readouterr().err
    assert main([*tune, "--model", "scionet:resnet20", "--out", "tuned.safetensors"]) == 0
    before, after = resnet20(), resnet20()
    first, second = (
        load_sparse_(model, read_sparse(f"{name}.safetensors"))
        for model, name in ((before, "sparse"), (after, "tuned"))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(before.conv1.weight, after.conv1.weight)
    assert all(not after.get_parameter(name)[~mask].any() for name, mask in second.items())
    capsys.readouterr()
    shown = ["evaluate", "--model", "scionet:resnet20", "--weights", "tuned.safetensors", *DATA]
    assert main(shown) == 0
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--density", "0"], "density must lie in"), (["--density", "0.5", "--score", "magnitud"], "magnitude")],
)
def test_wrong_input_is_refused(
    flags: list[str], message: str, ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*MASK, *flags]) == 1
    assert message in capsys.readouterr().err
