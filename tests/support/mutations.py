"""Mutations of JSON texts: every kind of value in every place, what no parser should be given, and damaged bytes."""

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

RAW = (
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 400,
    "9" * 5000,
    "[" * 100_000,
    "[" * 300 + "]" * 300,
    '{"a":' * 300 + "1" + "}" * 300,
    '"\\ud800"',
    '{"a": 1, "a": 2}',
    "",
    "'text'",
)
"""Texts in place of a value, of which not all are JSON."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    10**9,
    2**63,
    -(2**63),
    0.5,
    -1.5,
    1e300,
    "",
    "a",
    "../../etc/passwd",
    "\x1b[2J\n",
    "é" * 1000,
    [],
    [[]],
    [1, 2, 3],
    ["a"],
    [None],
    {},
    {"a": 1},
    {"0": [0]},
    {"name": "random"},
)


def mutated(text: str, rng: random.Random) -> str:
    """A JSON text with one to three changes, or now and then with damaged characters."""
    if rng.random() < 0.1:
        return _damaged(text, rng)
    tree = [json.loads(text)]
    raw: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(tree, rng, raw)
    text = json.dumps(tree[0])
    for number, replacement in enumerate(raw):
        text = text.replace(json.dumps(f"@raw{number}@"), replacement)
    return text


TOML_VALUES = (
    *("true", "0", "-1", "1e300", "inf", "nan", "9" * 400, "1979-05-27", "12:00:00", "'", "="),
    *('""', '"a"', '"\\u0000"', '"""\n"""', "[]", "[[]]", "[1, 2]", '["a"]', '["--seed", "1"]', "{}", "{ a = 1 }"),
    *("[" * 300 + "]" * 300, "[" * 100_000, "{ a = " * 300 + "1" + "}" * 300),
)


def mutated_toml(text: str, rng: random.Random) -> str:
    """A TOML text in which one to three lines have other values or keys, are missing, doubled or damaged."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(lines))
        key, sign, _ = lines[place].partition("=")
        kind = rng.randrange(6)
        if kind == 0:
            lines[place] = ""
        elif kind == 1:
            lines.insert(place, lines[place])
        elif kind == 2:
            lines[place] = _damaged(lines[place], rng)
        elif kind == 3 and sign:
            lines[place] = f"new_key = {rng.choice(TOML_VALUES)}"
        elif sign:
            lines[place] = f"{key}= {rng.choice(TOML_VALUES)}"
        else:
            lines[place] = rng.choice(("[unheard_of]", "[[network]]", "[network.arguments.a.b]", "[data]"))
    return "\n".join(lines)


def _damaged(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    return rng.choice((text[:start], text[start:], text[:start] + rng.choice('{}[]",:0e\\') + text[start + 1 :]))


def _change(tree: Any, rng: random.Random, raw: list[str]) -> None:
    """Change one entry of a nested list or object."""
    owner, key = rng.choice([*_places(tree)])
    kind = rng.randrange(8)
    if kind == 0 and isinstance(owner, dict):
        del owner[key]
    elif kind == 1 and isinstance(owner, dict):
        owner[rng.choice(("new", "", "a" * 300, "\x00", key.upper() + "s"))] = owner.pop(key)
    elif kind == 2 and isinstance(owner, dict):
        owner["unheard_of"] = rng.choice(VALUES)
    elif kind == 3 and isinstance(owner, list) and len(owner) > 1:
        del owner[key]
    elif kind == 4 and isinstance(owner, list):
        owner.insert(key, copy.deepcopy(owner[key]))
    elif kind == 5 and type(owner[key]) in (int, float):
        owner[key] = rng.choice((owner[key] + 1, owner[key] - 1, -owner[key], owner[key] * 1000, float(owner[key])))
    elif kind == 6:
        owner[key] = f"@raw{len(raw)}@"
        raw.append(rng.choice(RAW))
    else:
        owner[key] = copy.deepcopy(rng.choice(VALUES))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every entry: its owner, and its key or index there; of long lists only some."""
    keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(min(len(value), 4))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
