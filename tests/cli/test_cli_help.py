import inspect
import re
import resource
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TypeVar, get_type_hints

import pytest
from support.commandline import scionet

from scionet.choices.checking import Checked
from scionet.choices.methods import (
    Average,
    Exact,
    Forward,
    LeastSquares,
    LineSearch,
    OutputImitation,
    Score,
    Stochastic,
    TaskLoss,
)
from scionet.choices.repair import Reconstruct, Refit
from scionet.choices.resources import Resources
from scionet.choices.search import ArchitectureSearch
from scionet.choices.shrinking import SHRINKING
from scionet.choices.widths import Sensitivity, Uniform, Widths
from scionet.cli import KINDS, main, parse
from scionet.commands.chosen import chosen_method, chosen_repair, chosen_widths
from scionet.commands.options import (
    AnalyzeCollapse,
    AnalyzeGradientFlow,
    Common,
    Demo,
    Evaluate,
    Evaluation,
    Export,
    Finetune,
    FinetuneOptions,
    LatencyOptions,
    Mask,
    Pictures,
    Prune,
    Search,
    Shrink,
)
from scionet.training.execution import Execution
from scionet.training.recipes import RECIPES, Recipe

FOLDER = Path(__file__).parents[2] / "docs"
DOCS, TRAINING = ((FOLDER / name).read_text() for name in ("cli.md", "training.md"))


COMMANDS = [(), *(tuple(name.split()) for name in KINDS)]


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, marks=[pytest.mark.slow] * (each not in [(), ("prune",), ("finetune",)])) for each in COMMANDS],
)
def test_help_takes_less_than_a_second(command: tuple[str, ...], tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = scionet(*command, "--help", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "usage: scionet" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_help_does_not_import_torch(run_python: Callable[[str], str]) -> None:
    code = """
        import sys, scionet.cli
        for command in [[], *map(str.split, scionet.cli.KINDS)]:
            try:
                scionet.cli.main([*command, "--help"])
            except SystemExit as end:
                print(end.code, "torch" in sys.modules)
    """
    printed = run_python(code)
    assert re.findall(r"^\d .*", printed, re.MULTILINE) == ["0 False"] * len(COMMANDS)
    assert all(f"usage: {' '.join(('scionet', *command))} " in printed for command in COMMANDS)


def test_version_is_printed_without_torch(run_python: Callable[[str], str]) -> None:
    code = """
        import sys, scionet.cli
        print(scionet.cli.main(["--version"]), "torch" in sys.modules)
    """
    assert run_python(code).splitlines() == [f"scionet {metadata.version('scionet')}", "0 False"]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 100 columns, on which groups stand below one another."""
    monkeypatch.setenv("COLUMNS", "100")


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    return capsys.readouterr().out


def test_help_begins_with_the_common_options_and_groups_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, "prune")
    places = [shown.index(f"--{flag} ") for flag in ("model", "budget", "out", "method", "widths", "repair", "data")]
    assert places == sorted(places)
    groups = re.findall(r"^\W*((?:[a-z-]+ )?options)\W*$", shown, re.MULTILINE)
    assert groups[:5] == ["options", "pictures options", "evaluation options", "latency options", "sensitivity options"]
    for name in ("refit", "reconstruct", "least-squares", "task-loss", "stochastic", "resources"):
        assert f"{name} options" in groups


def test_help_joins_the_lines_of_a_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'and rows, "held_out" for each consumer' in help_of(capsys, "prune")  # two lines of source


def nested(kind: type) -> list[str]:
    """Flags of a choice of `scionet prune`, with its name before the dot."""
    assert is_dataclass(kind)
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()
    return [f"--{prefix}.{field.name.replace('_', '-')}" for field in fields(kind)]


def is_group(kind: type, name: str) -> bool:
    """Whether a field holds further options and is no flag by itself."""
    hint = get_type_hints(kind, include_extras=False)[name]
    return is_dataclass(hint) or isinstance(hint, TypeVar)


CHOICES = (Sensitivity, Refit, Reconstruct, LeastSquares, LineSearch, Average, TaskLoss, OutputImitation, Stochastic)


@pytest.mark.parametrize("kind", CHOICES)
def test_every_setting_of_a_choice_has_a_flag(kind: type[Checked], capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, "prune")
    assert [flag for flag in nested(kind) if flag not in shown] == []
    assert [flag for flag in nested(kind) if flag not in DOCS] == []


def test_every_setting_of_a_search_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, "search")
    assert [flag for flag in nested(ArchitectureSearch) if flag not in shown] == []
    own = [f".{flag.partition('.')[2]}" for flag in nested(ArchitectureSearch)]
    assert [flag for flag in own if flag not in DOCS] == []


@pytest.mark.parametrize("name", SHRINKING)
def test_every_setting_of_a_method_that_shrinks_has_a_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown, prefix = help_of(capsys, "shrink"), name.replace("_", "-")
    flags = [f"--{prefix}.{field.name.replace('_', '-')}" for field in fields(SHRINKING[name])]
    assert [flag for flag in flags if flag not in shown] == []
    own = [flag.partition(".")[2] for flag in flags]
    assert [flag for flag in own if flag not in DOCS] == []
    assert f"`{name}`" in DOCS


@pytest.mark.parametrize(
    "kind",
    [
        *(Common, Demo, Prune, Finetune, Evaluate, Export, AnalyzeCollapse, AnalyzeGradientFlow, Pictures, Evaluation),
        *(LatencyOptions, Resources, Execution, Mask, Shrink, Search),
    ],
)
def test_the_docs_name_every_flag(kind: type) -> None:
    assert is_dataclass(kind)
    flags = {f"--{field.name.replace('_', '-')}" for field in fields(kind) if not is_group(kind, field.name)}
    assert {flag for flag in flags if not re.search(rf"{flag}(?![\w-])", DOCS)} == set()


def test_the_docs_name_every_recipe_and_setting() -> None:
    names = {*RECIPES, *(field.name for kind in (Recipe, Execution) for field in fields(kind))}
    assert {name for name in names if f"`{name}`" not in TRAINING} == set()
    assert all(name in inspect.getsource(FinetuneOptions) for name in RECIPES)


def test_help_lists_the_defaults_of_the_chosen_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in RECIPES:
        shown = help_of(capsys, "finetune", "--recipe", recipe).split("--epochs FLOAT")[1].split("--batch-size")[0]
        assert f"(default: {RECIPES[recipe]().epochs:g})" in shown


def test_the_toml_file_of_the_docs_is_read(tmp_path: Path) -> None:
    path = tmp_path / "half.toml"
    path.write_text(DOCS.split("```toml\n")[1].split("```")[0])
    command = parse(["prune", "--config", str(path)])
    assert isinstance(command, Prune)
    assert command.pictures.preprocessing == "cifar"
    assert command.evaluation.evaluate_split == "test"
    assert chosen_widths(command) == Sensitivity(search=40)
    assert command.round_to == 8
    assert chosen_repair(command) == [Refit(shrinkage="held_out"), Reconstruct(steps=600)]


def test_a_file_says_the_same_as_flags(at_home: Path) -> None:
    flags = ["--model", "scionet:resnet20", "--weights", "weights.pt", "--budget", "macs<=80%", "--threads", "1"]
    flags += ["--calibration-images", "16", "--ignored-layers", "layer3.*", "--data", "pictures", "--split", "train"]
    flags += ["--preprocessing", "cifar", "--batch-size", "8", "--positions", "8", "--out", "x.safetensors"]
    from_file = parse(["prune", "--config", "prune.toml", "--out", "x.safetensors"])
    assert from_file.config == Path("prune.toml")
    assert replace(from_file, config=None) == parse(["prune", *flags])


def test_flags_override_the_file(at_home: Path) -> None:
    Path("more.toml").write_text(
        'quiet = true\nmodel = "a"\nout = "o"\nignored_layers = ["a", "b"]\n'
        'repair = ["refit", "recalibrate"]\n'
        '[pictures]\ndata = "d"\nmean = [0.1, 0.2, 0.3]\n[refit]\nshortcuts = false\nshrinkage = 0.5\n'
    )
    flags = ["--no-quiet", "--model=b", "--ignored-layers", "c", "--repair", "refit", "--refit.shrinkage", "1e-3"]
    said = [parse(["prune", "--config", "more.toml", *more]) for more in ([], flags)]
    Path("more.toml").unlink()
    assert all(isinstance(command, Prune) for command in said)
    found = [
        (c.quiet, c.model, c.ignored_layers, c.pictures.mean, c.repair, c.refit) for c in said if isinstance(c, Prune)
    ]
    assert found == [
        (True, "a", ("a", "b"), (0.1, 0.2, 0.3), ("refit", "recalibrate"), Refit(shortcuts=False, shrinkage=0.5)),
        (False, "b", ("c",), (0.1, 0.2, 0.3), ("refit",), Refit(shortcuts=False, shrinkage=1e-3)),
    ]


def test_the_choices_of_a_file_are_those_of_python(tmp_path: Path) -> None:
    path = tmp_path / "l1.toml"
    path.write_text(
        'method = "l1"\npasses = 2\nwidths = "uniform"\nmodel = "a"\nout = "o"\nrepair = []\n[pictures]\ndata = "d"\n'
        "[resources]\npositions = 8\nmemory_gib = 0.5\n"
    )
    command = parse(["prune", "--config", str(path)])
    assert isinstance(command, Prune)
    assert (chosen_method(command), chosen_widths(command), chosen_repair(command)) == (Score("l1", 2), Uniform(), [])
    assert command.resources == Resources(positions=8, memory_gib=0.5)


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        ((), Forward(LeastSquares())),
        (("--method", "taylor"), Score("taylor")),
        (("--objective", "average", "--average.repetition"), Forward(Average(repetition=True))),
        (("--objective", "task_loss", "--task-loss.tolerance", "10"), Forward(TaskLoss(tolerance=10))),
        (("--least-squares.target", "better", "--passes", "2"), Forward(LeastSquares(target="better"), passes=2)),
        (("--candidates", "stochastic", "--stochastic.epsilon", "0.2"), Forward(LeastSquares(), Stochastic(0.2))),
        (("--method", "my.package:score"), "my.package:score"),
    ],
)
def test_flags_mean_the_choices_of_python(flags: tuple[str, ...], method: object) -> None:
    command = parse(["prune", "--model", "a", "--out", "o", "--data", "d", *flags])
    assert isinstance(command, Prune)
    found = chosen_method(command)
    if isinstance(found, Forward) and isinstance(method, Forward):
        found, method = (replace(each, candidates=name_or(each.candidates)) for each in (found, method))
    assert found == method
    assert chosen_widths(command) is None
    assert chosen_repair(command) == [Refit()]


def name_or(choice: object) -> object:
    return Exact() if choice == "exact" else choice


@pytest.mark.parametrize("metric", ["kl", "squared", None])
def test_outputs_are_chosen_by_an_option_or_a_file(metric: str | None, tmp_path: Path) -> None:
    given = ["prune", "--model", "a", "--out", "o", "--data", "d"]
    (tmp_path / "a.toml").write_text(f'outputs = "{metric}"' if metric else "")
    for flags in (["--outputs", metric] if metric else [], ["--config", str(tmp_path / "a.toml")]):
        command = parse([*given, *flags])
        assert isinstance(command, Prune)
        assert command.outputs == metric


def test_options_of_the_default_widths_choose_them() -> None:
    command = parse(["prune", "--model", "a", "--out", "o", "--data", "d", "--sensitivity.search", "4"])
    assert isinstance(command, Prune)
    assert chosen_widths(command) == Sensitivity(search=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bugdet = 'macs<=50%'", r"unknown key in .*x\.toml 'bugdet'.* Did you mean 'budget'"),
        ("[pictures]\nsplt = 'train'", r"unknown key in .*x\.toml \[pictures\] 'splt'.* Did you mean 'split'"),
        ("[refit]\nshrinkge = 0.5", r"unknown key in .*\[refit\] 'shrinkge'.* Did you mean 'shrinkage'"),
        ("[resources]\npositions = [[8]]", "positions in .* must be a text, a number, true or false, or a list"),
        ("pictures = 'here'", r"pictures in .* must be a table: write \[pictures\]"),
        ("seed = 2024-01-01", "seed is a date; allowed are texts, numbers"),
        ("model = ", "is no TOML file"),
    ],
)
def test_a_wrong_file_is_explained(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.toml").write_text(text)
    assert main(["prune", "--config", str(tmp_path / "x.toml")]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_widths_come_from_a_file_in_place_of_a_budget(tmp_path: Path) -> None:
    (tmp_path / "widths.json").write_text('{"layer1.0.conv1": 8, "name": 3}')
    command = parse(["prune", "--model", "a", "--out", "o", "--data", "d", "--widths", str(tmp_path / "widths.json")])
    assert isinstance(command, Prune)
    assert chosen_widths(command) == Widths({"layer1.0.conv1": 8, "name": 3})
