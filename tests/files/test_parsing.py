"""What parsed texts are refused for, and how the place in them is named."""

import pytest

from scionet.files.parsing import DEEPEST, below, parsed_json


@pytest.mark.parametrize(
    ("before", "after"), [('{"a":', "}"), ("[", "]"), ('[{"a":', "}]")], ids=["objects", "lists", "both"]
)
def test_nesting_is_counted_through_objects_and_lists(before: str, after: str) -> None:
    most = DEEPEST // (2 if len(after) == 2 else 1)
    parsed_json(before * most + "null" + after * most)
    with pytest.raises(ValueError, match=f"nested too deeply; lists and objects may be nested {DEEPEST} deep"):
        parsed_json(before * (most + 1) + "null" + after * (most + 1))


@pytest.mark.parametrize(
    ("key", "path"),
    [("a", "x.a"), ("k" * 60, f"x.{'k' * 60}"), ("k" * 61, f"x['{'k' * 59}]"), ("", "x['']"), ("\n", r"x['\n']")],
    ids=["short", "60", "61", "empty", "line break"],
)
def test_unusual_keys_are_quoted_and_abridged(key: str, path: str) -> None:
    assert below("x", key) == path
