import inspect
import re
import resource
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from importlib import metadata
from pathlib import Path

import pytest
from scionet.settings import ForwardSettings, ScoreSettings
from support.commandline import scionet

from scionet.cli import KINDS, main, parse
from scionet.commands.options import Analyze, Common, Demo, Evaluate, Export, Finetune, Pictures, Prune
from scionet.training.execution import Execution
from scionet.training.recipes import RECIPES, Recipe

FOLDER = Path(__file__).parents[2] / "docs"
DOCS, TRAINING = ((FOLDER / name).read_text() for name in ("cli.md", "training.md"))


@pytest.mark.parametrize("command", [(), *((name,) for name in KINDS)])
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
        try:
            scionet.cli.main(["prune", "--help"])
        except SystemExit as end:
            print(end.code, "torch" in sys.modules)
    """
    assert run_python(code).splitlines()[-1] == "0 False"


def test_version_is_printed_without_torch(run_python: Callable[[str], str]) -> None:
    code = """
        import sys, scionet.cli
        print(scionet.cli.main(["--version"]), "torch" in sys.modules)
    """
    assert run_python(code).splitlines() == [f"scionet {metadata.version('scionet')}", "0 False"]


def test_help_lists_the_settings_of_the_chosen_method(capsys: pytest.CaptureFixture[str]) -> None:
    helps = []
    for method in ("forward", "l1"):
        with pytest.raises(SystemExit):
            main(["prune", "--method", method, "--help"])
        helps.append(capsys.readouterr().out)
    assert "--candidates" in helps[0] and "--candidates" not in helps[1]
    assert all(f"--{field.name.replace('_', '-')}" in helps[1] for field in fields(ScoreSettings))


@pytest.mark.parametrize("kind", [Common, Demo, Prune, Finetune, Evaluate, Export, Analyze, Pictures, Execution])
def test_the_docs_name_every_flag(kind: type) -> None:
    assert is_dataclass(kind)
    flags = {f"--{field.name.replace('_', '-')}" for field in fields(kind)} - {
        "--pictures",
        "--settings",
        "--execution",
        "--what",  # a word and no flag
    }
    assert {flag for flag in flags if not re.search(rf"{flag}(?![\w-])", DOCS)} == set()


def test_the_docs_name_every_recipe_and_setting() -> None:
    names = {*RECIPES, *(field.name for kind in (Recipe, Execution) for field in fields(kind))}
    assert {name for name in names if f"`{name}`" not in TRAINING} == set()
    assert all(name in inspect.getsource(Finetune) for name in RECIPES)


def test_help_lists_the_defaults_of_the_chosen_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in RECIPES:
        with pytest.raises(SystemExit):
            main(["finetune", "--recipe", recipe, "--help"])
        shown = capsys.readouterr().out.split("--epochs FLOAT")[1].split("--batch-size")[0]
        assert f"(default: {RECIPES[recipe]().epochs:g})" in shown


def test_the_toml_file_of_the_docs_is_read(tmp_path: Path) -> None:
    path = tmp_path / "half.toml"
    path.write_text(DOCS.split("```toml\n")[1].split("```")[0])
    command = parse(["prune", "--config", str(path)])
    assert isinstance(command, Prune)
    assert command.pictures.preprocessing == "cifar"
    assert command.settings == ForwardSettings(allocation="measured", round_to=8)


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
        '[pictures]\ndata = "d"\nmean = [0.1, 0.2, 0.3]\n[settings]\nrefit = false\nshrinkage = 0.5\n'
    )
    flags = ["--no-quiet", "--model=b", "--ignored-layers", "c", "--refit", "--shrinkage", "1e-3"]
    said = [parse(["prune", "--config", "more.toml", *more]) for more in ([], flags)]
    Path("more.toml").unlink()
    assert all(isinstance(command, Prune) for command in said)
    found = [(c.quiet, c.model, c.ignored_layers, c.pictures.mean, c.settings) for c in said if isinstance(c, Prune)]
    assert found == [
        (True, "a", ("a", "b"), (0.1, 0.2, 0.3), ForwardSettings(refit=False, shrinkage=0.5)),
        (False, "b", ("c",), (0.1, 0.2, 0.3), ForwardSettings(refit=True, shrinkage=1e-3)),
    ]


def test_the_method_of_a_file_decides_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "l1.toml"
    path.write_text('method = "l1"\nmodel = "a"\nout = "o"\n[pictures]\ndata = "d"\n')
    for flags, expected in (((), ScoreSettings()), (("--method", "forward"), ForwardSettings())):
        command = parse(["prune", "--config", str(path), *flags])
        assert isinstance(command, Prune) and command.settings == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bugdet = 'macs<=50%'", r"unknown key in .*x\.toml 'bugdet'.* Did you mean 'budget'"),
        ("[pictures]\nsplt = 'train'", r"unknown key in .*x\.toml \[pictures\] 'splt'.* Did you mean 'split'"),
        ("method = 'l1'\n[settings]\nobjective = 'loss'", r"unknown key in .*\[settings\] 'objective'"),
        ("pictures = 'here'", r"pictures in .* must be a table: write \[pictures\]"),
        ("seed = 2024-01-01", "seed in .* must be a text, a number"),
        ("model = ", "is no TOML file"),
    ],
)
def test_a_wrong_file_is_explained(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.toml").write_text(text)
    assert main(["prune", "--config", str(tmp_path / "x.toml")]) == 1
    assert re.search(message, capsys.readouterr().err)
