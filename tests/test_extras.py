import ast
import json
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from support import lean
from support.commandline import printed_by

from scionet.data.images import Preprocessing
from scionet.data.sources import read_source
from scionet.errors import MissingExtra, PruneError
from scionet.extras import extra

SOURCES = sorted((lean.ROOT / "src" / "scionet").rglob("*.py"))
FEATURES = {
    "train": ("scionet.fit(nn.Linear(2, 2), [(torch.zeros(2), 0)] * 128)",),
    "report": (
        "from scionet.bench.report.page import write_html",
        "from scionet.bench.report.svg import render",
    ),
    "sklearn": (
        "from scionet import GreedySelector",
        "from scionet.data.digits import digits; digits()",
        "prune(method='lasso')",
    ),
    "workers": ("from scionet.backends import configured; configured('loky', 2).__enter__()",),
    "images": (
        "from scionet.data.folders import ImageFolder",
        "from scionet.data.sources import read_source",
        "from scionet.commands import prune",
        "from scionet.commands import finetune",
    ),
    "vision": (
        "build('timm:resnet18')",
        "build('torchvision:resnet18')",
    ),
    "export": ("scionet.export_onnx(network(), example, 'x.onnx')",),
    "ray": ("from scionet.backends import configured; configured('ray', 2).__enter__()",),
    "dask": ("from scionet.backends import configured; configured('dask', 2).__enter__()",),
    "torch-pruning": (
        "from scionet.adapters.torch_pruning_criteria import criterion; prune(method=criterion(importance='hessian'))",
    ),
    "efficientnet-lite": ("build('scionet:efficientnet_lite0')",),
    "all": ("from scionet import demo; demo.run(Path('demo'))",),
}
COMMON = """
import json
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
import torch, scionet
from torch import nn
from scionet.cli import main
from scionet.errors import MissingExtra
from scionet.models.factory import build

example = torch.ones(2, 3, 6, 6)

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))

def prune(**choices):
    data = [(torch.rand(4, 3, 6, 6), torch.tensor([0, 1, 0, 1]))]
    return scionet.prune(network().eval(), data, "macs<=60%", example_inputs=example, **choices)
"""


WITHOUT = """
result = prune()
path = scionet.save_pruned("small.safetensors", result.model, result.plan, result.sites)
loaded = scionet.load_pruned(path, network()).eval()
assert torch.equal(loaded(example), result.model(example))
prune(method="l1")
scionet.export_program(loaded, example, "small.pt2")
for words in ([], ["prune"], ["finetune"], ["evaluate"], ["export"], ["analyze"], ["bench", "run"], ["demo"]):
    try:
        main([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0
"""
EACH_FEATURE = """
features = []
for extra, codes in {features!r}.items():
    for code in codes:
        try:
            exec(code)
        except MissingExtra as error:
            features.append((extra, code, str(error)))
        except BaseException as error:
            features.append((extra, code, f"{{type(error).__name__}}: {{error}}"))
        else:
            features.append((extra, code, "works"))
"""
EACH_COMMAND = """
data, commands = ["--data", "pictures", "--out", "x.safetensors"], []
for words in (["prune", "--model", "scionet:resnet20", *data], ["finetune", "--pruned", "y", *data], ["demo"]):
    with redirect_stderr(StringIO()) as said:
        commands.append((main(words), " ".join(said.getvalue().split())))
"""


@pytest.fixture(scope="module")
def lean_python(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh interpreter without any extra finds, in an empty folder: one for all, since torch takes seconds."""
    parts = (COMMON, WITHOUT, EACH_FEATURE.format(features=FEATURES), EACH_COMMAND)
    code = "".join((lean.without_extras(), *parts, "print(json.dumps({'features': features, 'commands': commands}))"))
    with chdir(tmp_path_factory.mktemp("lean")):
        return json.loads(printed_by(code).splitlines()[-1])


def test_pruning_and_the_command_line_need_no_extra(lean_python: dict[str, Any]) -> None:
    """`WITHOUT` ran to its end."""
    assert lean_python


def test_every_feature_names_the_extra_that_it_lacks(lean_python: dict[str, Any]) -> None:
    found = lean_python["features"]
    wrong = [each for each in found if not each[2].endswith(f"; run: pip install 'scionet[{each[0]}]'")]
    assert wrong == []
    assert len(found) == sum(map(len, FEATURES.values()))


def test_commands_name_the_extra_that_they_lack(lean_python: dict[str, Any]) -> None:
    assert lean_python["commands"] == [
        [1, "error: this needs the package PIL, which is not installed; run: pip install 'scionet[images]'"],
        [1, "error: this needs the package PIL, which is not installed; run: pip install 'scionet[images]'"],
        [1, "error: this needs the package accelerate, which is not installed; run: pip install 'scionet[all]'"],
    ]


def test_a_missing_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"datasets, .* pip install 'scionet\[huggingface\]'"):
        read_source("huggingface:mnist", Preprocessing(), tmp_path)


def test_a_missing_extra_is_an_error_of_scionet_and_of_imports() -> None:
    assert issubclass(MissingExtra, PruneError)
    assert issubclass(MissingExtra, ImportError)


def test_what_scionet_itself_lacks_is_no_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"scionet\.no_such_module"), extra("train"):
        __import__("scionet.no_such_module")


def test_imports_beyond_the_core_stand_in_a_block_of_an_extra_that_installs_them() -> None:
    imports = {(path, *found) for path in SOURCES for found in _guarded_imports(ast.parse(path.read_text()))}
    assert [each for each in sorted(imports, key=str) if not _may_import(*each[1:])] == []


def test_extras_are_the_ones_that_the_sources_name() -> None:
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    named = {guard for tree in trees for guard in map(_extra_of, ast.walk(tree)) if guard is not None}
    assert named | {"dev"} == lean.PROJECT["optional-dependencies"].keys()


def test_the_extra_all_is_what_the_demo_and_all_commands_need() -> None:
    assert lean.of_extra("all") == set[str]().union(
        *map(lean.of_extra, ("train", "report", "workers", "sklearn", "images", "vision", "export"))
    )
    assert lean.of_extra("all").isdisjoint(lean.core())


def _may_import(package: str, guard: str | None) -> bool:
    installed = lean.core() if guard is None else lean.core() | lean.of_extra(guard)
    own = {*sys.stdlib_module_names, "scionet"}
    return package in own or not installed.isdisjoint(lean.distributions_of(package))


def _guarded_imports(node: ast.AST, guard: str | None = None) -> Iterator[tuple[str, str | None]]:
    """Top-level packages that a program imports, each with the extra of the block around it."""
    guard = _extra_of(node) or guard
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from ((name.name.partition(".")[0], guard) for name in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield str(node.module).partition(".")[0], guard
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        yield from ((str(name.value).partition(".")[0], guard) for name in node.args if isinstance(name, ast.Constant))
    for child in ast.iter_child_nodes(node):
        yield from _guarded_imports(child, guard)


def _extra_of(node: ast.AST) -> str | None:
    """The extra that a `with` block names."""
    if isinstance(node, ast.With):
        for item in node.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "extra":
                return ast.literal_eval(call.args[0])
    return None
