"""Packed files: the same records give the same bytes, and a damaged file is refused by name, line and advice."""

import hashlib
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scionet.bench.records.archive import read_archive, write_archive
from scionet.bench.records.record_files import RecordError

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64) + 1, 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
objects = st.lists(st.dictionaries(words, values, max_size=4), max_size=6)

RECORDS = [{"run": number, "name": f"Größe {number}\u2028", "values": [0.1, None]} for number in range(12)]


def canonical(record: object) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_archive(tmp_path / "runs.jsonl", RECORDS)
    return tmp_path / "runs.jsonl"


@given(objects)
def test_every_set_of_objects_comes_back_exactly_and_sorted(tmp_path_factory: pytest.TempPathFactory, records) -> None:
    path = tmp_path_factory.mktemp("archive") / "runs.jsonl"
    write_archive(path, records)
    assert [canonical(record) for record in read_archive(path)] == sorted({canonical(record) for record in records})


def test_the_file_is_a_header_with_count_and_checksum_and_then_one_canonical_line_per_record(path: Path) -> None:
    first, rest = path.read_bytes().split(b"\n", 1)
    digest = hashlib.sha256(rest).hexdigest()
    assert json.loads(first) == {"count": 12, "format": 1, "kind": "scionet records", "sha256": digest}
    assert rest.decode().split("\n") == [*sorted(map(canonical, RECORDS)), ""]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_records_and_repetitions_do_not_change_the_bytes(path: Path, seed: int) -> None:
    mixed = [dict(reversed(record.items())) for record in (*RECORDS, *RECORDS[:3])]
    random.Random(seed).shuffle(mixed)
    other = path.with_name("other.jsonl")
    write_archive(other, mixed)
    assert other.read_bytes() == path.read_bytes()


def damaged(path: Path, place: int, line: str | None) -> None:
    """Replace a line of the file (0 is the header), or remove it."""
    lines = path.read_text().split("\n")
    lines[place : place + 1] = [] if line is None else [line]
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("place", "line", "message"),
    [
        (4, None, "line 1 announces 12 records, but 11 lines follow"),
        (4, '{"run":3', "line 5 is not canonical JSON"),
        (4, '{"run": 3}', "line 5 is not canonical JSON"),
        (4, canonical(RECORDS[0]), "line 5 is out of order"),
        (12, '{"z":1}', "the checksum of its records differs from the one in line 1"),
    ],
)
def test_a_changed_line_is_refused_with_its_number_and_what_to_do(
    path: Path, place: int, line: str | None, message: str
) -> None:
    damaged(path, place, line)
    with pytest.raises(RecordError, match=re.escape(f"{path} is damaged: {message}; restore the file")) as caught:
        read_archive(path)
    assert "scionet bench pack" in str(caught.value)


@pytest.mark.parametrize("cut", [1, 40, 200, -1, -20])
def test_a_truncated_file_is_refused_unless_only_the_last_line_break_is_missing(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:cut])
    if cut == -1:
        assert len(read_archive(path)) == len(RECORDS)
    else:
        with pytest.raises(RecordError, match=re.escape(str(path))):
            read_archive(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "line 1 is no header of a packed file"),
        ("[1]", "line 1 is no header of a packed file: header must be of type dict"),
        ('{"format":1}', "line 1 has kind None instead of 'scionet records'; give a packed file"),
        ('{"kind":"scionet records","format":2}', "line 1 has packed format 2; this scionet reads format 1"),
        ('{"kind":"scionet records","format":1,"count":12}', "line 1 is damaged: header.sha256 is missing"),
    ],
)
def test_a_wrong_first_line_is_refused(path: Path, header: str, message: str) -> None:
    damaged(path, 0, header)
    with pytest.raises(RecordError, match=re.escape(f"{path}, {message}")):
        read_archive(path)


def test_a_line_that_is_no_object_is_refused_even_with_the_right_checksum(path: Path) -> None:
    digest = hashlib.sha256(b"7\n").hexdigest()
    path.write_text(canonical({"count": 1, "format": 1, "kind": "scionet records", "sha256": digest}) + "\n7\n")
    with pytest.raises(RecordError, match=re.escape(f"{path}, line 2 is no record")):
        read_archive(path)


@pytest.mark.parametrize("record", [{"x": float("nan")}, {"x": object()}, {"x": "\ud800"}])
def test_what_has_no_json_form_is_not_written_and_the_old_file_stays(path: Path, record: dict[str, object]) -> None:
    before = path.read_bytes()
    with pytest.raises(RecordError, match=r"cannot pack .*: a record has no JSON form"):
        write_archive(path, [record])
    assert path.read_bytes() == before


def test_the_name_must_end_in_jsonl(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"ends in \.jsonl; given .*runs\.json$"):
        write_archive(tmp_path / "runs.json", RECORDS)
