"""scionet analyze valley: from two sets of weights to a record, a figure and a page."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from torch import nn

from scionet.analysis.valley import Valley, valley
from scionet.bench.records.record_files import read_value
from scionet.cli import main
from scionet.commands.analyses.subject import read_pictures
from scionet.commands.analyses.valley_record import Segment, ValleyRecord
from scionet.commands.analyses.valley_sections import sections
from scionet.commands.analysis_options import AnalyzeValley

QUICK = ["analyze", "valley", "--pictures", "200", "--points", "3", "--quiet"]


def network() -> nn.Module:
    """A network of the user's own for digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, nn.Module]:
    """Two networks, saved as first.pt and second.pt."""
    monkeypatch.chdir(tmp_path)
    found = []
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        found.append(network().eval())
        torch.save(found[-1].state_dict(), f"{name}.pt")
    return found[0], found[1]


def test_digits_give_segments_to_three_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "To 20% of its weights, fine-tuned: " in said
    record = read_value(ValleyRecord, tmp_path / "record.json")
    assert record.network == "a network of 64-128-64-10 units, trained on the pictures"
    masked, directional, other = record.segments
    assert directional.name.startswith("directional pruning, ")
    assert masked.valley.rise < 0.01 < other.valley.rise
    assert all(each.valley.positions == (0, 0.5, 1) for each in record.segments)
    assert len({each.valley.losses[0] for each in record.segments}) == 1
    ET.parse(tmp_path / "figure.svg")
    assert "Both lie in one valley" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("flags", [[], ["--recalibrate"]])
def test_two_networks_of_the_user(flags: list[str], ends: tuple[nn.Module, nn.Module]) -> None:
    given = ["--model", "test_cli_valley:network", "--weights", "first.pt", "--second", "second.pt", *flags]
    assert main([*QUICK, *given, "--out", "found"]) == 0
    record = read_value(ValleyRecord, Path("found/record.json"))
    pictures = read_pictures(AnalyzeValley(out=Path(), pictures=200), 0)
    expected = valley(*ends, pictures.batches, points=3, recalibrate=bool(flags))
    assert record.segments == (Segment("the second network", expected),)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--second", "second.pt"], "give both, or neither"),
        (["--model", "test_cli_valley:network"], "give both, or neither"),
        (["--points", "1"], "points must be 2 or more"),
        (["--model", "scionet:resnet20", "--second", "second.pt"], "second.pt"),
    ],
)
def test_wrong_input_is_refused(
    flags: list[str], message: str, ends: tuple[nn.Module, nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, *flags, "--out", "found"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("found/record.json").exists()


def test_a_barrier_is_described() -> None:
    flat = Segment("one", Valley((0, 0.5, 1), (0.2, 0.1, 0.4), (0.9, 0.95, 0.8)))
    high = Segment("two", Valley((0, 0.5, 1), (0.2, 1.5, 0.4), (0.9, 0.25, 0.8)))
    (section,) = sections((flat, high))
    assert section.grid.rows == (
        ("one", "0.4000", "0.0000", "0.0000", "80.0%", "5.0%"),
        ("two", "0.4000", "1.2000", "1.1000", "80.0%", "60.0%"),
    )
    assert "Both lie in one valley" in section.reading[0]
    assert (
        "At t = 0.50 the loss is 1.100 nats above its higher end, and the accuracy falls to 25.0%" in section.reading[1]
    )
