import importlib
import inspect
import tomllib
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import scionet

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "module", ["scionet", "scionet.bench.report.page", "scionet.selection.greedy", "scionet.choices.settings"]
)
def test_import_without_torch(module: str, run_python: Callable[[str], str]) -> None:
    assert run_python(f"import sys, {module}; print('torch' in sys.modules)") == "False\n"


@pytest.mark.slow
def test_prune_is_imported_in_a_quarter_of_a_second_beyond_torch(
    run_python: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # the first run may compile, as an installation does
    code = """
        from time import process_time
        start = process_time()
        import torch
        between = process_time()
        from scionet import prune
        print(process_time() - between, between - start)
    """
    times = [tuple(map(float, run_python(code).split())) for _ in range(5)]
    # other programs slow everything down; how much, the import of torch says: 0.25 s is about a fifth of it
    assert any(ours < max(0.25, torchs / 5) for ours, torchs in times), times


def test_prune_imports_nothing_slow(run_python: Callable[[str], str]) -> None:
    code = """
        import sys, torch
        from scionet import prune
        print(*{"rich", "scipy", "tyro"}.intersection(sys.modules))
        model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        prune(model, [torch.randn(16, 3)], "macs<=60%", example_inputs=torch.randn(2, 3))
        print("torch._dynamo" in sys.modules)  # torch's compiler, which takes more than a second
    """
    assert run_python(code) == "\nFalse\n"


def test_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert scionet.__version__ == version("scionet") == project["version"]


@pytest.mark.parametrize("name", scionet.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(scionet, name) is not None
    assert name in dir(scionet)


def test_type_checkers_and_python_see_the_same_names() -> None:
    source = inspect.getsource(scionet)
    for name in set(scionet.__all__) - {"__version__"}:
        home = getattr(scionet, name).__module__
        assert f"from {home} import" in source, f"{name} lives in {home}"


def test_prune_is_the_function_also_after_its_module_was_imported() -> None:
    importlib.import_module("scionet.pruning")
    assert inspect.isfunction(scionet.prune)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        _ = scionet.prunes  # pyright: ignore[reportAttributeAccessIssue]


def test_package_says_that_it_is_typed() -> None:
    assert (files("scionet") / "py.typed").is_file()


def test_test_modules_have_names_of_their_own() -> None:
    # pytest imports them by the bare name, so that of two the first on the path would be taken
    names = Counter(path.stem for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name, count in names.items() if count > 1 and name != "conftest"] == []
