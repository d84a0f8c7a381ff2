"""The typed reader: what is written is read, and what is refused is named with its path."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scionet.errors import InvalidSetting
from scionet.files.json_dataclasses import read, to_json
from scionet.files.parsing import DEEPEST, parsed_json, parsed_toml
from scionet.files.versioned import Format


@dataclass(frozen=True)
class Small:
    number: int
    name: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.number == 13:
            raise InvalidSetting("number must not be 13")


@dataclass(frozen=True)
class Large:
    small: Small
    pairs: tuple[tuple[str, float], ...] = ()
    table: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    either: Small | str | None = None
    open: Any = None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
wholes = st.integers(-(2**64) + 1, 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
smalls = st.builds(Small, wholes.filter(lambda n: n != 13), st.sampled_from(["a", "b"]))
opens = st.recursive(
    st.none() | st.booleans() | wholes | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)
larges = st.builds(
    Large,
    smalls,
    st.lists(st.tuples(texts, floats), max_size=3).map(tuple),
    st.dictionaries(st.integers(0, 20), st.lists(wholes, max_size=3).map(tuple), max_size=3),
    st.none() | texts | smalls,
    opens,
)


@given(larges)
def test_what_is_written_is_read(value: Large) -> None:
    assert read(Large, to_json(value)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ('{"small": {"number": 1}, "small": 3}', "the key 'small' is given twice"),
        ("{}", r"record\.small is missing"),
        ('{"small": {"number": 1, "\\u0000": 2}}', r"record\.small\['\\x00'\] is unknown"),
        ('{"small": {"number": true}}', r"record\.small\.number must be of type int; given True"),
        ('{"small": {"number": 1.0}}', r"record\.small\.number must be of type int; given 1\.0"),
        ('{"small": {"number": 1, "name": "c"}}', r"record\.small\.name must be one of 'a', 'b'; given 'c'"),
        ('{"small": {"number": 13}}', r"record\.small: number must not be 13"),
        ('{"small": {"number": 1}, "pairs": [["a"]]}', r"record\.pairs\[0\] must have 2 entries; given 1"),
        ('{"small": {"number": 1}, "pairs": [["a", NaN]]}', r"record\.pairs\[0\]\[1\] is nan; numbers must be finite"),
        ('{"small": {"number": 1}, "pairs": [["a", 1e999]]}', r"record\.pairs\[0\]\[1\] is inf"),
        ('{"small": {"number": 1}, "table": {"1": [1], "-1": []}}', r"record\.table must have whole numbers as keys"),
        ('{"small": {"number": 1}, "table": {"01": []}}', r"whole numbers as keys; given '01'"),
        ('{"small": {"number": 1}, "either": 3}', r"record\.either fits none of its forms"),
        ('{"small": {"number": 1}, "open": "\\ud800"}', r"record\.open is '\\ud800', which is not Unicode text"),
        (f'{{"small": {{"number": {2**64}}}}}', r"record\.small\.number is a whole number of 65 bits"),
        (f'{{"small": {{"number": {"9" * 5000}}}}}', "Exceeds the limit"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), r"nested too deeply; .* 64 deep"),
        ("[" * 10**6, r"record is nested too deeply"),
    ],
)
def test_refusals_name_the_path(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(Large, text)


@pytest.mark.parametrize("value", [float("nan"), 2**64, {1.5: 2}, {"a": {1, 2}}, "\ud800"])
def test_what_cannot_be_read_is_not_written(value: Any) -> None:
    with pytest.raises(ValueError, match="record"):
        to_json({"value": value})


def test_the_deepest_that_is_written_is_read() -> None:
    value: Any = []
    for _ in range(DEEPEST - 1):
        value = [value]
    assert parsed_json(to_json(value)) == value
    with pytest.raises(ValueError, match="nested too deeply"):
        to_json([[value]])


@pytest.mark.parametrize(
    "text", ["a = inf", "a = 1979-05-27", "a = " + "[" * 10**5, "a = 1\na = 2", "a = " + "[" * 99 + "]" * 99]
)
def test_toml_is_read_as_strictly(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed_toml(text)


FORMAT = Format(2, ("known",), "Write it again")


def test_formats_come_back() -> None:
    assert FORMAT.read(Small, FORMAT.write(Small(3), ["known"]), "file") == Small(3)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ('"format_version": 3', r"file has format version 3; this scionet reads 2\. It was written by a newer scionet"),
        ('"format_version": 1', r"file has format version 1; this scionet reads 2\. Write it again"),
        ('"format_version": 2, "requires": ["new"]', r"\('new'\)\. It was written by a newer scionet"),
        ('"format_version": 2, "requires": [], "section": 1', r"\('section'\)\. It was written by a newer scionet"),
        ('"format_version": 2', r"file\.requires must be of type list"),
        ('"requires": []', r"file\.format_version must be of type int; given None"),
    ],
)
def test_other_formats_are_refused(head: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FORMAT.read(Small, f'{{{head}, "number": 1}}', "file")
