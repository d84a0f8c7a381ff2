"""Values as JSON: what differs has another outline, and every outline is JSON."""

import json
from typing import Any

import numpy as np
import pytest

from scionet.training.outline import outline


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(2, dtype=np.int32), np.zeros(1, dtype=np.int64)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.array([{"a": 1}], dtype=object), np.array([{"a": 2}], dtype=object)),
        ({1: "a"}, {2: "a"}),
        ({(1, 2): "a"}, {(1, 3): "a"}),
        (list(range(17)), [*range(16), 17]),
        (b"a", b"b"),
    ],
    ids=["type", "shape", "objects", "key", "composed key", "long list", "bytes"],
)
def test_what_differs_has_another_outline(one: Any, other: Any) -> None:
    assert outline(one) == outline(one)
    assert outline(one) != outline(other)


def test_keys_are_texts() -> None:
    found = outline({"a": 1, 2: 3, (4, 5): {6: 7}})
    assert found == {"a": 1, "2": 3, "{'0': 4, '1': 5}": {"6": 7}}
    assert json.loads(json.dumps(found)) == found
