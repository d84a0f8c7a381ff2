"""scionet analyze rates: from pictures to a record, a figure and a page."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.made_up_rates import study
from torch import nn

from scionet.bench.records.record_files import read_value
from scionet.cli import main
from scionet.commands.analyses.rates_record import RatesRecord
from scionet.commands.analyses.rates_sections import sections
from scionet.commands.analyses.study_page import overview, page

QUICK = ["analyze", "rates", "--parts", "sites", "--pictures", "200", "--quiet"]


def test_digits_give_a_record_a_figure_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "Sites of the network:" in said
    assert "greedy, least squares" in said
    record = read_value(RatesRecord, tmp_path / "a" / "record.json")
    assert (record.source, record.pictures, record.seed) == ("digits", 200, 0)
    assert [each.site for each in record.study.sites] == ["1", "3"]
    assert record.study.planted == ()
    assert record.provenance.command == "scionet analyze rates --source digits --pictures 200 --seed 0"
    assert "64-128-64-10" in (tmp_path / "a" / "page.html").read_text()
    ET.parse(tmp_path / "a" / "figure.svg")
    assert main([*QUICK, "--out", str(tmp_path / "a")]) == 1
    assert "exists; give another folder, or --overwrite" in capsys.readouterr().err
    assert main([*QUICK, "--out", str(tmp_path / "b")]) == 0
    first, second = (json.loads((tmp_path / name / "record.json").read_text())["study"] for name in "ab")
    assert first == second


def colourful() -> nn.Module:
    """A network of the user's own, for RGB pictures."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def test_folders_and_networks_of_the_user(at_home: Path, tmp_path: Path) -> None:
    flags = ["--source", "images:pictures", "--model", "test_cli_rates:colourful", "--sites", "2"]
    assert main([*QUICK, *flags, "--out", str(tmp_path / "a")]) == 0
    record = read_value(RatesRecord, tmp_path / "a" / "record.json")
    assert (record.source, record.network, record.pictures) == ("images", "test_cli_rates:colourful", 40)
    assert [each.site for each in record.study.sites] == ["2"]
    assert str(at_home) not in (tmp_path / "a" / "record.json").read_text()


def test_every_part_has_a_section_with_a_reading() -> None:
    found = sections(study())
    assert [each.title for each in found] == [
        "Planted problems",
        "Pruned or trained from scratch",
        "Random neurons",
        "How much training before pruning",
        "Sites of the network",
    ]
    for each in found:
        assert each.panels
        assert all(each.reading)
        assert all(len(row) == len(each.grid.columns) for row in each.grid.rows)
    crossing, never, always = found[1].reading
    assert "better from about 250 neurons on" in crossing
    assert "−1.96 (−2.06 to −1.86)" in crossing
    assert "trained from scratch is better at all sizes" in never
    assert "the pruned network is better at all sizes" in always
    assert "outside the hull of the large network's neurons, at a distance of 0.2" in always
    assert "cannot go below 0.02" in always
    assert "6.9 more steps (6.2 to 7.6)" in found[3].reading[0]
    assert "The logarithm fits better" in found[3].reading[0]
    assert found[3].grid.rows[0] == ("64", "7, –")
    assert found[0].grid.rows[0][2:4] == ("0.25–0.5", "4")


def test_parts_that_were_not_measured_have_no_section() -> None:
    assert sections(replace(study(), planted=(), scratch=(), random=(), pretraining=None, sites=())) == ()


def test_the_page_is_complete_well_formed_and_escaped() -> None:
    found = sections(study())
    text = page("A <title>", "On $data$", found, ("made by & hand",))
    body = re.sub(r"<!doctype html>|<meta[^>]*>", "", text)
    root = ET.fromstring(re.sub(r"<style>.*?</style>", "", body, flags=re.DOTALL))
    assert "<b>" not in text
    assert "layer1 &lt;b&gt;$x$" in text
    assert "made by &amp; hand" in text
    identifiers = re.findall(r' id="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))
    figures = [element for element in root.iter() if element.tag.endswith("svg")]
    assert len(figures) == sum(len(each.panels) for each in found)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert page("A <title>", "On $data$", found, ("made by & hand",)) == text


def test_the_figure_stands_alone_and_is_the_same_each_time() -> None:
    found = sections(study())
    text = overview(found)
    assert text == overview(found)
    assert "var(--" not in text
    assert text.count('id="axes_') == 6
    for placeholder in ("#010101", "#050505"):
        assert placeholder not in text
    assert "10⁻" in text or "0.01" in text


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--source", "digit"], "data must be given as digits"),
        (["--source", "idx:nowhere"], "has neither train-images-idx3-ubyte nor"),
        (["--pictures", "1"], "2 pictures or more"),
        (["--weights", "x.pt"], "give it with --model"),
        (["--model", "scionet:resnet21"], "resnet20"),
        (["--sites", "9*"], "no site is called '9*'"),
        (["--parts", "planted", "--sites", "1"], "belong to the part 'sites'"),
        (["--parts", "pretraining"], "needs 256 pictures or more; given 200"),
        (["--mean", "0.5", "0.5"], "three values each"),
    ],
)
def test_what_is_wrong_is_said(flags: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--out", str(tmp_path / "a"), *flags]) == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "a" / "record.json").exists()


def test_the_folder_must_not_be_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_text("precious")
    assert main([*QUICK, "--out", str(tmp_path / "a")]) == 1
    assert "it is a file; give a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_all_parts_run_end_to_end_on_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "rates", "--out", str(tmp_path / "a"), "--quiet"]) == 0
    assert "The logarithm fits better" in capsys.readouterr().out
    record = read_value(RatesRecord, tmp_path / "a" / "record.json")
    assert len(sections(record.study)) == 5
    assert record.study.planted[3].slopes[1].value == pytest.approx(-2, abs=0.1)
    page_text = (tmp_path / "a" / "page.html").read_text()
    assert page_text.count("<svg") == 3 + 4 + 1 + 2 + 2
