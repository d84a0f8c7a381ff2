"""Records of one experiment in single files, in a packed file, or in both."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from support import made_up_records as made_up

from scionet.bench.records.archive import read_archive, write_archive
from scionet.bench.records.record import RunRecord, save
from scionet.bench.records.record_files import RecordError
from scionet.bench.records.store import load_all, pack
from scionet.cli import main

RUNS = tuple(made_up.record(method, seed=seed) for method in ("forward", "l1", "random") for seed in range(2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run in RUNS:
        save(run, tmp_path / "records")
    return tmp_path / "records"


def test_a_packed_file_gives_the_records_of_its_folder(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "records.jsonl"
    assert pack(RunRecord, [folder], packed) == len(RUNS)
    assert load_all(packed) == load_all(folder) == RUNS
    singles = [json.loads(path.read_text()) for path in folder.iterdir()]
    assert sorted(singles, key=str) == sorted(read_archive(packed), key=str)


def test_packing_keeps_the_text_of_a_record_as_it_is(folder: Path, tmp_path: Path) -> None:
    """A field with a default that an older record lacks is not added."""
    path = next(folder.iterdir())
    content = json.loads(path.read_text())
    del content["sweep"]
    path.write_text(json.dumps(content))
    pack(RunRecord, [folder], tmp_path / "records.jsonl")
    assert content in read_archive(tmp_path / "records.jsonl")


def test_the_same_records_give_the_same_bytes_in_one_step_or_in_several(folder: Path, tmp_path: Path) -> None:
    whole, grown = tmp_path / "whole.jsonl", tmp_path / "grown.jsonl"
    pack(RunRecord, [folder], whole)
    for run in RUNS[::-1]:
        pack(RunRecord, [save(run, tmp_path / "single")], grown)
    assert whole.read_bytes() == grown.read_bytes()
    assert pack(RunRecord, [folder], grown) == len(RUNS)
    assert whole.read_bytes() == grown.read_bytes()


def test_a_run_that_is_in_both_places_is_read_once(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "records.jsonl"
    write_archive(packed, [json.loads(run.to_json()) for run in RUNS[:4]])
    for run in RUNS[:2]:
        (folder / run.file_name).unlink()
    assert load_all(packed, folder) == load_all(folder, packed) == RUNS


def test_different_results_of_one_run_are_refused_with_both_places(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "records.jsonl"
    pack(RunRecord, [folder], packed)
    before = packed.read_bytes()
    changed = save(dataclasses.replace(RUNS[0], seconds=99.0), folder)
    with pytest.raises(RecordError, match=rf"{re.escape(str(packed))}, line \d+ and {re.escape(str(changed))}"):
        load_all(packed, folder)
    with pytest.raises(RecordError, match="different results of the same run; remove one of them"):
        pack(RunRecord, [folder], packed)
    assert packed.read_bytes() == before


def test_a_damaged_record_is_not_packed_and_named(folder: Path, tmp_path: Path) -> None:
    path = sorted(folder.iterdir())[2]
    path.write_text(path.read_text()[:-20])
    with pytest.raises(RecordError, match=re.escape(f"{path} is damaged or no run record")):
        pack(RunRecord, [folder], tmp_path / "records.jsonl")
    assert not (tmp_path / "records.jsonl").exists()


def test_a_line_that_is_no_run_record_is_named(tmp_path: Path) -> None:
    write_archive(tmp_path / "records.jsonl", [{"format": 1, "colour": "red"}])
    with pytest.raises(RecordError, match=r"records\.jsonl, line 2 is damaged or no run record"):
        load_all(tmp_path / "records.jsonl")


def test_the_command_packs_beside_the_folder_and_adds_to_a_file_that_exists(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "pack", str(folder)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'records.jsonl'} holds 6 records\n"
    assert load_all(tmp_path / "records.jsonl") == RUNS
    more = made_up.record("bn_scale")
    save(more, tmp_path / "more")
    assert main(["bench", "pack", str(tmp_path / "more"), "--out", str(tmp_path / "records.jsonl")]) == 0
    assert capsys.readouterr().out.endswith("holds 7 records\n")
    assert set(load_all(tmp_path / "records.jsonl")) == {*RUNS, more}
    assert sorted(path.name for path in folder.iterdir()) == sorted(run.file_name for run in RUNS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "no folder or file nowhere; give a folder of records (*.json) or a packed file (*.jsonl)"),
        (("empty",), "no record (*.json) to pack into empty.jsonl; give a folder that has some"),
        (("records", "--out", "records.json"), "the name of a packed file ends in .jsonl; given records.json"),
    ],
)
def test_the_command_says_what_is_wrong(
    folder: Path,
    words: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "empty").mkdir()
    assert main(["bench", "pack", *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(folder.parent.glob("*.json*"))
