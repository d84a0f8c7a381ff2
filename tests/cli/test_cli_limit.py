"""scionet analyze limit: from pictures to a record, a figure and a page."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from scionet.analysis.limit.network_limit import pruning_limit
from scionet.bench.records.record_files import read_value
from scionet.cli import main
from scionet.commands.analyses.limit_record import LimitRecord
from scionet.commands.analyses.limit_sections import sections
from scionet.commands.analyses.subject import read_pictures
from scionet.commands.analysis_options import AnalyzeLimit
from scionet.errors import StationarityWarning

QUICK = ["analyze", "limit", "--pictures", "200", "--steps", "12", "--quiet"]
ONE = [*QUICK, "--l1-weights", "0", "--measure", "one-shot"]


def network() -> nn.Module:
    """A network of the user's own for digits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> LimitRecord:
    """The record of a quick analysis of digits."""
    folder = tmp_path_factory.mktemp("limit")
    assert main([*ONE, "--out", str(folder)]) == 0
    assert "64-24-10" not in (folder / "page.html").read_text()
    ET.parse(folder / "figure.svg")
    return read_value(LimitRecord, folder / "record.json")


def test_digits_give_a_record_a_figure_and_a_page(record: LimitRecord) -> None:
    assert (record.source, record.pictures, record.batch_size, record.tolerance) == ("digits", 200, 128, "batch_std")
    (found,) = record.networks
    assert found.name == "no L1 penalty"
    assert (found.predicted.limit.weights, found.predicted.examples, found.predicted.estimate.products) == (
        1776,
        200,
        12,
    )
    assert found.one_shot is not None
    assert found.one_shot.losses[0] == pytest.approx(found.predicted.loss, rel=1e-9)
    assert found.reoptimised is None
    assert len(record.subspaces) == 6
    assert record.provenance.command == "scionet analyze limit --source digits --pictures 200 --seed 0"


def test_the_same_seed_gives_the_same_record(
    record: LimitRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ONE, "--out", str(tmp_path)]) == 0
    assert "no L1 penalty: the curvature says that" in capsys.readouterr().out
    assert read_value(LimitRecord, tmp_path / "record.json").networks == record.networks
    assert main([*ONE, "--out", str(tmp_path)]) == 1
    assert "exists; give another folder, or --overwrite" in capsys.readouterr().err


def test_a_network_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--model", "test_cli_limit:network", "--tolerance", "5%", "--spectrum", "trace", "--probes", "3"]
    assert main([*QUICK, *flags, "--measure", "one-shot", "--out", "a"]) == 0
    (found,) = read_value(LimitRecord, Path("a/record.json")).networks
    pictures = read_pictures(AnalyzeLimit(out=Path(), pictures=200), 0)
    batches = list(zip(pictures.images.split(128), pictures.labels.split(128), strict=True))
    with pytest.warns(StationarityWarning):
        expected = pruning_limit(network(), batches, tolerance="5%", spectrum="trace", probes=3)
    assert found.predicted == expected
    assert found.name == "test_cli_limit:network"


def test_what_the_numbers_say(record: LimitRecord) -> None:
    (found,) = record.networks
    assert found.one_shot is not None
    level = found.predicted.loss + found.predicted.tolerance
    near = replace(found.one_shot, level=level, densities=(found.predicted.trace_limit.density,), losses=(level,))
    far = replace(near, densities=(1.0,))
    none = replace(near, losses=(level + 1,))

    def reading(one_shot, reoptimised, **changed) -> str:
        predicted = replace(found.predicted, **changed)
        each = replace(found, one_shot=one_shot, reoptimised=reoptimised, predicted=predicted)
        return "\n".join(sections(replace(record, networks=(each,)))[1].reading)

    assert "which agrees with the prediction from the trace" in reading(near, None, reachable_drop=0.0)
    assert "which does not agree with the prediction from the spectrum" in reading(None, far)
    assert "the loss stays within ε at no density that was tried" in reading(None, none)
    assert "not at a minimum" in reading(near, None, reachable_drop=9.0)
    assert "not at a minimum" not in reading(near, None, reachable_drop=0.0)
    subspaces, networks = sections(record)
    for each in (subspaces, networks):
        assert all(len(row) == len(each.grid.columns) for row in each.grid.rows)
    assert networks.grid.rows[0][-1] == "–"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--tolerance", "much"], "given 'much'"),
        (["--l1-weights", "-1"], "numbers of 0 or more"),
        (["--weights", "x.pt"], "give it with --model"),
        (["--parameters", "9.*"], "no parameter is called '9.*'"),
        (["--pictures", "100"], "do not fill a batch of 128"),
        (["--probes", "0"], "a random vector or more"),
    ],
)
def test_what_is_wrong_is_said(flags: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ONE, "--out", str(tmp_path / "a"), *flags]) == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "a" / "record.json").exists()


@pytest.mark.slow
def test_the_whole_analysis_runs_on_digits(tmp_path: Path) -> None:
    assert main(["analyze", "limit", "--out", str(tmp_path), "--quiet"]) == 0
    plain, penalised = read_value(LimitRecord, tmp_path / "record.json").networks
    assert penalised.predicted.density < plain.predicted.density
    for each in (plain, penalised):
        assert each.one_shot is not None
        assert each.one_shot.lowest is not None
        assert abs(each.one_shot.lowest - each.predicted.trace_limit.density) <= 0.1
    assert (tmp_path / "page.html").read_text().count("<svg") == 3
