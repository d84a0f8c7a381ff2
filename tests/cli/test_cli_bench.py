"""scionet bench run, status and report, from a file to a page."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scionet.cli import main

TOML = """
name = "tiny"
arms = ["as cut", "fine-tuned"]
seeds = [0]
budgets = ["macs<=60%"]
competitors = ["l1"]

[network]
factory = "scionet:digits_cnn"

[data]
source = "digits"
train = 128
calibration = 64
validation = 64

[pretraining]
epochs = 1
batch_size = 64

[finetuning]
epochs = 1
batch_size = 64
"""


def bench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "scionet", "bench", *words)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "tiny.toml").write_text(TOML)
    return folder


@pytest.mark.slow
def test_from_a_file_to_a_page_and_packed_records_count_as_done(folder: Path) -> None:
    before = bench(folder, "report", "tiny.toml", "--out", "out")
    assert before.returncode == 1
    assert "holds no record of tiny.toml; run it first" in before.stderr
    ran = bench(folder, "run", "tiny.toml", "--out", "out", "--backend", "sequential")
    assert ran.returncode == 0, ran.stderr
    assert "2 runs" in ran.stdout
    assert "scionet bench report tiny.toml --out out --data ." in ran.stderr
    status = bench(folder, "status", "tiny.toml", "--out", "out")
    assert status.returncode == 0
    assert "fine-tuned" in status.stdout
    report = bench(folder, "report", "tiny.toml", "--out", "out")
    assert report.returncode == 0
    assert "2 of 2 runs are done; report: out/report.html" in report.stdout
    page = (folder / "out" / "report.html").read_text()
    assert "l1 + fine-tuned" in page
    assert str(folder) not in page
    assert (folder / "out" / "table.csv").read_text().count("\n") == 4
    assert (folder / "out" / "table.md").read_text().startswith("| network |")
    # records that are packed count as done
    packed = bench(folder, "pack", "out/records")
    assert packed.returncode == 0
    assert "out/records.jsonl holds 2 records" in packed.stdout
    shutil.rmtree(folder / "out" / "records")
    ran = bench(folder, "run", "tiny.toml", "--out", "out", "--backend", "sequential")
    assert ran.returncode == 0
    assert not (folder / "out" / "records").exists()
    report = bench(folder, "report", "tiny.toml", "--out", "out")
    assert "2 of 2 runs are done" in report.stdout


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (TOML, ("run", "none.toml", "--out", "out"), "cannot read none.toml"),
        (TOML.replace('"l1"', '"l11"'), ("run", "bad.toml", "--out", "out"), "unknown competitor 'l11'"),
        (TOML, ("run", "bad.toml", "--out", "bad.toml"), "cannot make the folder"),
        (TOML, ("run", "bad.toml", "--out", "out", "--jobs", "0"), "jobs and threads are 1 or more"),
        (
            TOML.replace("[pretraining]", "[scratch]"),
            ("status", "bad.toml", "--out", "out"),
            "weights, or [pretraining]",
        ),
        (TOML, ("report", "bad.toml", "--out", "out", "--headline", "l2"), "holds no record"),
    ],
)
def test_wrong_input_is_explained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *words]) == 1
    assert message in capsys.readouterr().err
