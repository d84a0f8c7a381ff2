"""scionet analyze, from pictures to tables and files."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from scionet.cli import main

PICTURES = ["--data", "pictures", "--split", "train", "--preprocessing", "cifar", "--images", "20", "--quiet"]
SUBJECT = ["--model", "scionet:resnet20", "--weights", "weights.pt", *PICTURES]


def test_collapse_shows_which_scores_empty_layers(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--scores", "magnitude", "lamp", "--compressions", "2", "300", "--json", "c.json", "--plot", "c.svg"]
    assert main(["analyze", "collapse", *SUBJECT, *flags]) == 0
    said = capsys.readouterr().out
    assert "magnitude: no layer is emptied up to 2" in said
    assert "lamp: no layer is emptied up to 300" in said
    points = json.loads((at_home / "c.json").read_text())["points"]
    assert [(p["score"], p["compression"]) for p in points] == [
        ("magnitude", 2),
        ("magnitude", 300),
        ("lamp", 2),
        ("lamp", 300),
    ]
    # of 268,336
    assert points[1]["collapsed"]
    assert sum(points[3]["kept"].values()) == 894
    assert "layers without weights" in (at_home / "c.svg").read_text()
    assert main(["analyze", "collapse", *SUBJECT, *flags]) == 1
    for name in ("c.json", "c.svg"):
        (at_home / name).unlink()


@pytest.mark.slow
def test_gradient_flow_shows_rates_predicted_and_measured(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model-args", "classes=10", "--batch-norms", "--json", "f.json", "--images", "8"]
    assert main(["analyze", "gradient-flow", *SUBJECT, *flags]) == 0
    assert "relative difference" in capsys.readouterr().out
    rates = json.loads((at_home / "f.json").read_text())["rates"]
    assert rates["loss"]["measured"] == pytest.approx(rates["loss"]["predicted"], rel=1e-3)
    (at_home / "f.json").unlink()


def test_scores_of_units_are_correlated_with_removals(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = ["--model", "test_cli_analyze:tiny", *PICTURES]
    flags = ["--methods", "l1", "loss_preservation", "--json", "r.json"]
    assert main(["analyze", "gradient-flow", *digits, *flags]) == 0
    found = json.loads((at_home / "r.json").read_text())["correlations"]
    assert found.keys() == {"l1", "loss_preservation"}
    assert all(-1 <= c <= 1 for c in found["l1"].values())
    (at_home / "r.json").unlink()


def tiny() -> nn.Module:
    """A network of the user's own."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["collapse", "--scores", "synflw"], "Did you mean 'synflow'"),
        (["collapse", "--compressions", "0.5"], "1 or more"),
        (["gradient-flow", "--methods", "energy"], "leave it out of --methods"),
        (["collapse", "--images", "4000"], "4000 pictures"),
    ],
)
@pytest.mark.usefixtures("untouched")
def test_what_is_wrong_is_said(flags: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", flags[0], "--model", "test_cli_analyze:tiny", *PICTURES, *flags[1:]]) == 1
    assert text in capsys.readouterr().err
