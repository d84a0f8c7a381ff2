"""The committed records of benchmarks/results, and the working folders that are packed into them."""

from dataclasses import replace
from pathlib import Path

import pytest
from support import made_up_records as made_up

import benchmarks
from benchmarks.records import pack_folder, packed_file, recorded, recorded_runs
from benchmarks.report import pages
from benchmarks.report.tables import FORWARD
from benchmarks.run.early.early_record import EarlyRecord
from scionet.bench.records.archive import read_archive, write_archive
from scionet.bench.records.record import RunRecord, save
from scionet.bench.records.record_files import RecordError
from scionet.bench.records.store import load_all

PACKED = sorted(benchmarks.RESULTS.rglob("*.jsonl"))


@pytest.mark.parametrize("path", PACKED, ids=[str(path.relative_to(benchmarks.RESULTS)) for path in PACKED])
def test_a_committed_file_is_whole_and_in_its_canonical_form(path: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "again.jsonl", read_archive(path))
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


def test_committed_files_hold_records_of_their_kind() -> None:
    early = recorded(EarlyRecord, benchmarks.RESULTS / "early")
    assert len(early) == len({run.file_name for run in early}) == 90
    for name in ("examples", "repair", "selector/runs", "small/records", "smoke/records", "tickets/records"):
        assert recorded_runs(benchmarks.RESULTS / name), name


def test_a_run_counts_as_recorded_in_the_committed_file_and_in_the_folder(tmp_path: Path) -> None:
    folder, runs = tmp_path / "mine", [made_up.record(seed=seed) for seed in range(3)]
    assert recorded_runs(folder) == ()
    assert not folder.exists()
    save(runs[0], folder)
    pack_folder(RunRecord, folder)
    assert list(folder.glob("*.json")) == []
    assert recorded_runs(folder) == (runs[0],)
    save(runs[2], folder)
    save(runs[1], folder)
    assert recorded_runs(folder) == tuple(runs)
    pack_folder(RunRecord, folder)
    assert load_all(packed_file(folder)) == tuple(runs)
    before = packed_file(folder).read_bytes()
    pack_folder(RunRecord, folder)
    assert packed_file(folder).read_bytes() == before


def test_single_files_stay_when_they_cannot_be_packed(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    save(made_up.record(), folder)
    pack_folder(RunRecord, folder)
    again = save(replace(made_up.record(), seconds=9.0), folder)
    with pytest.raises(RecordError, match="different results of the same run"):
        pack_folder(RunRecord, folder)
    assert again.exists()


def test_a_damaged_early_record_says_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "vgg.json").write_text('{"network":"VGG"}')
    with pytest.raises(RecordError, match=r"vgg\.json is damaged: record\..* is missing.*run the benchmark again"):
        recorded(EarlyRecord, tmp_path / "mine")


def test_the_pages_are_made_from_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "EXPERIMENTS", {"mine": "l1"})
    run = made_up.record(sites={"conv": 4})
    save(replace(run, spec=replace(run.spec, method=FORWARD)), tmp_path / "untrained")
    save(made_up.record("random"), tmp_path / "untrained")
    save(made_up.record("l1"), tmp_path / "mine" / "records")
    pack_folder(RunRecord, tmp_path / "mine" / "records")
    pages.main(tmp_path / "docs" / "pages")
    texts = {path.name: path.read_text() for path in (tmp_path / "docs" / "pages").iterdir()}
    assert texts.keys() == {"benchmarks.html", "bench-mine.html", "untrained.csv"}
    assert FORWARD in texts["benchmarks.html"]
    assert "scionet bench: mine" in texts["bench-mine.html"]
    assert len(texts["untrained.csv"].splitlines()) == 4
