"""Hostile TOML: every configuration and experiment is valid, or refused with an error of ours; no code runs."""

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bench_trials import TOML
from support.hostile_files import mutated

from scionet.bench.experiment.experiment import Experiment
from scionet.choices.settings import keywords_from
from scionet.cli import main, parse
from scionet.errors import InvalidSetting, PruneError
from scionet.files.parsing import DEEPEST
from scionet.files.toml_files import MAX_BYTES, MAX_DOTS, read_toml

PRUNE = """
model = "scionet:resnet20"
weights = "resnet20.safetensors"
budget = "macs<=50%"
out = "half.safetensors"
widths = "sensitivity"
repair = ["refit", "reconstruct"]
ignored_layers = ["layer3.*"]
round_to = 8
[pictures]
data = "pictures"
mean = [0.5, 0.5, 0.5]
preprocessing = "cifar"
[sensitivity]
search = 4
[refit]
shrinkage = "held_out"
asymmetric = false
[resources]
memory_gib = 0.5
"""
BENCH = f"""{TOML}
[settings]
limits = {{round_to = 8}}
[[custom_competitors]]
label = "mine"
method = {{name = "forward", objective = {{name = "task_loss"}}, passes = 2}}
widths = {{name = "sensitivity", search = 2}}
repair = ["refit", {{name = "reconstruct", steps = 6}}]
"""
STRANGE = (
    *(0, -1, 2**70, 1.5, float("nan"), float("inf"), True, "", "\x00", "a\nb", "--help", "-h", "é" * 300),
    *([], [[]], {}, {"name": []}, {"name": {}}, [{"name": 1}], [0, "x"], {"": {"": {}}}, {"name": "forward", "x": 1}),
    *("forward", "l1", "macs<=50%", "weights<=5%", "macs<=1e999%", "nan", [True], ["--quiet"], [None]),
)


def paths_of(table: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths_of(value, (*path, key))


def changed(table: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The table with one value replaced, removed, or put under another key."""
    result = copy.deepcopy(table)
    paths = list(paths_of(result))
    *above, key = paths[rng.integers(len(paths))]
    place = result
    for step in above:
        place = place[step]
    value = copy.deepcopy(STRANGE[rng.integers(len(STRANGE))])
    match rng.integers(4):
        case 0:
            del place[key]
        case 1 if isinstance(place, dict):
            place[str(value)[:20]] = place.pop(key)
        case _:
            place[key] = value
    return result


def toml(value: Any) -> str:
    """A value in TOML, all of it inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return quoted(str(value)) if isinstance(value, str | None) else repr(value)


def quoted(text: str) -> str:
    return '"' + "".join(c if c.isalnum() or c in " .,:<=%*-_" else f"\\u{ord(c):04x}" for c in text) + '"'


def document(table: dict[str, Any]) -> str:
    return "\n".join(f"{quoted(key)} = {toml(value)}" for key, value in table.items())


def command(path: Path) -> None:
    parse(["prune", "--config", str(path)])


def experiment(path: Path) -> None:
    found = Experiment.read(path)
    found.trials()
    keywords_from(found.settings)


@pytest.fixture(autouse=True)
def nothing_foreign_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "foreign.py").write_text("raise SystemError('foreign code ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert "foreign" not in sys.modules


READERS = {"command": (command, PRUNE), "experiment": (experiment, BENCH)}


@pytest.mark.parametrize(("read", "text"), READERS.values(), ids=READERS)
def test_the_unchanged_configuration_is_valid(read: Any, text: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    read(tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text(document(read_toml(tmp_path / "c.toml", InvalidSetting)))
    read(tmp_path / "c.toml")


@pytest.mark.parametrize(("read", "text", "share"), [(command, PRUNE, 5), (experiment, BENCH, 1)], ids=READERS)
@pytest.mark.parametrize("bytewise", [False, True])
def test_mutated_configurations_are_valid_or_refused(
    read: Any,
    text: str,
    share: int,
    bytewise: bool,
    fuzz_cases: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, rng, refused = tmp_path / "c.toml", np.random.default_rng(3), 0
    path.write_text(text)
    table = read_toml(path, InvalidSetting)
    count = fuzz_cases // share  # a command takes longer to read
    for _ in range(count):
        path.write_bytes(mutated(text.encode(), rng) if bytewise else document(changed(table, rng)).encode())
        refused += outcome(read, path) != ""
    assert 0.3 * count < refused


def outcome(read: Callable[[Path], None], path: Path) -> str:
    """Why a file is refused; empty if it is valid. A usage error ends with 2; 0 is help, which no file can ask for."""
    found = ""
    try:
        read(path)
    except PruneError as error:
        found = str(error)
    except SystemExit as ended:
        found = {2: "usage"}[ended.code]  # type: ignore[index]
    assert found.isprintable()
    return found


NESTED = {
    "lists": "a = " + "[" * 100_000,
    "closed lists": "a = " + "[" * 5000 + "]" * 5000,
    "few lists": "a = " + "[" * (DEEPEST + 2) + "]" * (DEEPEST + 2),
    "inline tables": "a = " + "{a = " * 50_000,
    "dotted key": ".".join("a" * 50_000) + " = 1",
    "short dotted key": ".".join("a" * 100) + " = 1",
    "header": "[" + ".".join("a" * 50_000) + "]",
    "headers": "\n".join("[" + ".".join("a" * n) + "]" for n in range(1, MAX_DOTS)),
    "large": "#" * (MAX_BYTES + 1),
    "large number": "a = " + "9" * 5000,
    "no text": "\xff\xfe",
}


@pytest.mark.parametrize("read", [command, experiment])
@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED)
def test_nested_and_large_files_are_refused_at_once(read: Any, text: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(PruneError, match=r"c\.toml is no TOML file"):
        read(tmp_path / "c.toml")


@pytest.mark.parametrize("flag", ["repair", "ignored_layers"])
@pytest.mark.parametrize("values", [["--trust-factory"], ["x", "-h"], ["--"]])
def test_no_list_can_hold_an_option(flag: str, values: list[str], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"{flag} = {values!r}")
    with pytest.raises(InvalidSetting, match=rf"{flag} in .*c\.toml is a list of values, and '-.*' would be an option"):
        command(tmp_path / "c.toml")


@pytest.mark.parametrize("key", ["model", "method"])
def test_a_configuration_that_names_a_function_needs_trust(key: str, tmp_path: Path) -> None:
    path, old = tmp_path / "c.toml", 'model = "scionet:resnet20"\n'
    named = PRUNE.replace(old, 'model = "foreign:f"\n') if key == "model" else f'method = "foreign:f"\n{PRUNE}'
    path.write_text(named)
    arguments = ["prune", "--config", str(path)]
    with pytest.raises(InvalidSetting, match=r"c\.toml names foreign:f, which may be any code.*--trust-factory"):
        parse(arguments)
    assert getattr(parse([*arguments, "--trust-factory"]), key) == "foreign:f"
    parse([*arguments, f"--{key}", "other:g"])  # the file's is not used
    path.write_text(f"trust_factory = true\n{named}")
    with pytest.raises(InvalidSetting, match="a file cannot trust itself"):
        parse(arguments)


PLACES = {
    "network": ('factory = "scionet:digits_cnn"', 'factory = "foreign:f"'),
    "data": ('source = "digits"', 'source = "foreign:f"'),
    "method": ('name = "forward"', 'name = "foreign:f"'),
    "short method": ('{name = "forward", objective = {name = "task_loss"}, passes = 2}', '"foreign:f"'),
    "guided": ("[settings]", '[guided]\nfactory = "foreign:f"\n[settings]'),
    "stock": ("[settings]", '[[stock]]\nfactory = "foreign:f"\n[settings]'),
}


@pytest.mark.parametrize("change", PLACES.values(), ids=PLACES)
def test_an_experiment_that_names_a_function_needs_trust(
    change: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change[0] in BENCH
    (tmp_path / "c.toml").write_text(BENCH.replace(*change))
    with pytest.raises(InvalidSetting, match=r"c\.toml names foreign:f, which may be any code"):
        experiment(tmp_path / "c.toml")
    for verb in ("run", "status", "report"):
        assert main(["bench", verb, str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")]) == 1
        assert "names foreign:f" in capsys.readouterr().err


def test_a_trusted_experiment_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(BENCH.replace(*PLACES["network"]))
    assert Experiment.read(tmp_path / "c.toml", trust_factory=True).network.factory == "foreign:f"
