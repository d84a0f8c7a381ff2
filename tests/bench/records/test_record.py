"""Records: there and back, whole or not at all, and clear words about files that cannot be read."""

import dataclasses
import json
import math
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import made_up_records as made_up

from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import FORMAT, Outcome, RunRecord, RunSpec, SiteRecord, load, save, thin
from scionet.bench.records.record_files import RecordError, write_text
from scionet.bench.records.store import load_all
from scionet.budget.latency.durations import Latency
from scionet.errors import InvalidSetting, PruneError

counts = st.integers(1, 10**9)
whole = st.integers(-(2**64) + 1, 2**64 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | whole | finite | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def sites(draw: st.DrawFn) -> SiteRecord:
    width = draw(st.integers(1, 50))
    units = sorted(draw(st.sets(st.integers(1, width))))
    return SiteRecord(draw(words), width, draw(st.integers(1, width)), tuple((n, draw(finite)) for n in units))


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    seen = draw(counts)
    ends = sorted(draw(st.tuples(*[st.floats(1e-6, 1e6)] * 3)))
    timed = Latency(ends[1], ends[0], ends[2], draw(counts))
    return Outcome(draw(counts), draw(counts), draw(st.integers(0, seen)), seen, draw(st.none() | st.just(timed)))


records = st.builds(
    RunRecord,
    spec=st.builds(RunSpec, words, words, words, words, words, whole, st.dictionaries(words, json_values)),
    dense=outcomes(),
    pruned=outcomes(),
    seconds=finite,
    sites=st.lists(sites(), max_size=3).map(tuple),
    provenance=st.builds(Provenance, words, words, st.dictionaries(words, words), words, counts, counts),
    max_relative_difference=st.none() | finite,
    dense_hash=words,
    plan_hash=words,
    summary=words,
    notes=st.lists(words, max_size=2).map(tuple),
)


@given(records)
def test_json_round_trip_is_exact_and_canonical(record: RunRecord) -> None:
    text = record.to_json()
    again = RunRecord.from_json(text)
    assert again == record
    assert again.to_json() == text
    assert again.spec.run_id == record.spec.run_id


def test_folder_round_trip_is_sorted_and_runs_replace_themselves(tmp_path: Path) -> None:
    runs = [made_up.record(method, seed=seed) for method in ("random", "forward") for seed in (1, 0)]
    for run in (*runs, runs[0]):
        save(run, tmp_path / "new" / "folder")
    found = load_all(tmp_path / "new" / "folder")
    assert [(r.spec.method, r.spec.seed) for r in found] == [
        ("forward", 0),
        ("forward", 1),
        ("random", 0),
        ("random", 1),
    ]
    assert set(found) == set(runs)


def test_identity_is_of_the_specification_and_not_of_the_outcome() -> None:
    run = made_up.record(correct=300)
    other = dataclasses.replace(run, pruned=Outcome(1, 1, 0, 1), seconds=9.0, notes=("elsewhere",))
    assert other.spec.run_id == run.spec.run_id
    changes = [{"seed": 1}, {"budget": "macs<=51%"}, {"method": "l1"}, {"settings": {"ridge": 1e-3}}, {"network": "n"}]
    ids = {dataclasses.replace(run.spec, **change).run_id for change in ({}, *changes)}
    assert len(ids) == 1 + len(changes)


def test_stored_identities_still_hold() -> None:
    """The identity is a hash of the specification as it is written; names in it may be older than today's."""
    stored = json.loads((Path(__file__).parent / "run_ids.json").read_text())
    assert len(stored) == 11
    assert any("widths" in each["spec"]["settings"] for each in stored)
    assert [RunSpec(**each["spec"]).run_id for each in stored] == [each["run_id"] for each in stored]


def test_order_of_settings_does_not_matter() -> None:
    one = RunSpec("e", "n", "d", "m", "b", 0, {"a": (1, 2), "b": 2})
    two = RunSpec("e", "n", "d", "m", "b", 0, {"b": 2, "a": [1, 2]})
    assert one == two
    assert one.run_id == two.run_id


def test_file_names_are_readable_and_differ_where_only_settings_do() -> None:
    run = made_up.spec("l1 + refit", "macs<=50%", 2)
    assert re.fullmatch(r"small-resnet_l1-refit_macs-50_seed2_[0-9a-f]{12}\.json", run.file_name)
    assert dataclasses.replace(run, settings={}).file_name != run.file_name


@pytest.mark.parametrize("cut", [0, 1, 0.3, 0.9, -3])
def test_a_truncated_record_is_refused_by_name(tmp_path: Path, cut: float) -> None:
    path = save(made_up.record(), tmp_path)
    text = path.read_text()
    path.write_text(text[: int(cut * len(text)) if isinstance(cut, float) else cut])
    with pytest.raises(RecordError, match=re.escape(str(path))):
        load_all(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seconds": "3"}, "record.seconds must be of type float; given '3'"),
        ({"seconds": True}, "record.seconds must be of type float"),
        ({"pruned": None}, "record.pruned must be of type dict"),
        ({"notes": "text"}, "record.notes must be of type list"),
        ({"sites": [{"name": "a", "width": 4}]}, r"record.sites\[0\].kept is missing"),
        ({"sites": [{"name": "a", "width": 4, "kept": 5}]}, "1 <= kept <= width"),
        ({"sites": [{"name": "a", "width": 4, "kept": 1, "curve": [[1]]}]}, r"curve\[0\] must have 2 entries; given 1"),
        ({"colour": "red"}, "record.colour is unknown"),
        ({"format": None}, "record.format must be of type int"),
    ],
)
def test_a_record_with_wrong_fields_says_which(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = save(made_up.record(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_newer_format_says_upgrade_even_if_its_fields_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "future.json"
    path.write_text(json.dumps({"format": FORMAT + 1, "other": 1}))
    with pytest.raises(RecordError, match=rf"future\.json has record format {FORMAT + 1}.*Upgrade scionet"):
        load(path)


def test_binary_rubbish_and_missing_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match=r"x\.json is damaged: not UTF-8"):
        load_all(tmp_path)
    with pytest.raises(RecordError, match="no folder or file"):
        load_all(tmp_path / "nowhere")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_not_recorded(tmp_path: Path, bad: float) -> None:
    with pytest.raises(RecordError, match="cannot be recorded"):
        save(dataclasses.replace(made_up.record(), seconds=bad), tmp_path)
    with pytest.raises(RecordError, match="JSON-able"):
        RunSpec("e", "n", "d", "m", "b", 0, {"ridge": bad})
    assert list(tmp_path.iterdir()) == []


def test_impossible_outcomes_are_refused() -> None:
    for macs, params, correct, seen in [(1, 1, 2, 1), (1, 1, 0, 0), (0, 1, 1, 1), (1, 0, 1, 1), (1, 1, -1, 1)]:
        with pytest.raises(RecordError, match="0 <= correct <= seen"):
            Outcome(macs, params, correct, seen)
    with pytest.raises(InvalidSetting, match="lower <= median <= upper"):
        Latency(1.0, 1.1, 1.2, 1)
    with pytest.raises(RecordError, match="curve ascending"):
        SiteRecord("s", 4, 2, ((2, 0.1), (2, 0.2)))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "report.html"
    write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    monkeypatch.setattr(Path, "replace", full if step == "replace" else Path.replace)
    with pytest.raises(PruneError, match=r"cannot write .*report\.html: No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]  # noqa: PTH208  (hidden files too)


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(made_up.record(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "ours", "text")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@given(st.integers(1, 300), st.integers(1, 64))
def test_thinning_keeps_both_ends_and_the_order(length: int, points: int) -> None:
    curve = [(n, 1 / n) for n in range(1, length + 1)]
    thinned = thin(curve, points)
    assert len(thinned) == min(points, length)
    assert thinned[0][0] == 1
    assert points == 1 or thinned[-1][0] == length
    assert all(a < b for (a, _), (b, _) in pairwise(thinned))
    assert all(error == pytest.approx(1 / n, rel=1e-5) for n, error in thinned)


def test_provenance_names_software_and_processor_but_no_host() -> None:
    here = Provenance.here("2025-01-01", "scionet demo", threads=2)
    assert set(here.versions) == {"python", "scionet", "torch", "numpy"}
    assert here.processor
    assert here.cores >= 1
    assert here.threads == 2
    assert not {"host", "node", "user"} & set(dataclasses.asdict(here))
