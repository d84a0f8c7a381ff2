"""Figures about the structure of the package: its folders, its imports, and what one `prune` goes through.

    python benchmarks/report/structure.py [ROOT] [--verbose]

ROOT is the repository to measure; by default the checkout that this file stands in. Prints a Markdown table.
"""

import argparse
import ast
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGE = "scionet"
CROWDED = 12
"""A folder with more files than this is listed."""

PICKER = ("selection/greedy.py", "greedy")
"""File within the package, and name, of the function that picks units: it asks the objective for the gains."""

EXAMPLES = 1024
"""Calibration data as a user would give: as many as the default `survey_examples`, so that a part is all of them."""
FEW_EXAMPLES = 128

MISTYPED = (
    'prune(model, data, "macs<=50%", example_inputs=x, methd="l1")',
    'Forward(objective="los")',
    'Refit(shrinkage="heldout")',
    'Sensitivity(examples="many")',
)
MISTYPED_HEAD = (
    "import torch",
    "from torch import nn",
    "from scionet import Forward, Refit, Sensitivity, prune",
    "model = nn.Linear(3, 2)",
    "x = torch.zeros(1, 3)",
    "data = [x]",
)
RULES = ("reportCallIssue", "reportArgumentType")

TIMED_IMPORT = (
    "import time, torch; start = time.perf_counter(); from scionet import prune; print(time.perf_counter() - start)"
)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        figure: What is counted.
        value: The number, with its unit if it has one.
        details: What was counted, one entry a line.
    """

    figure: str
    value: str
    details: tuple[str, ...] = ()


def main() -> None:
    """Measure one checkout and print the table."""
    parser = argparse.ArgumentParser(description="Figures about the structure of the package, as a Markdown table.")
    parser.add_argument("root", nargs="?", type=Path, help="repository root; by default the checkout of this file")
    parser.add_argument("--verbose", action="store_true", help="also list what was counted")
    arguments = parser.parse_args()
    root = (arguments.root or own_checkout()).resolve()
    if not (root / "src" / PACKAGE).is_dir():
        parser.error(f"{root} has no folder src/{PACKAGE}; give the root of a checkout")
    rows = measured(root)
    print(table(rows))
    if arguments.verbose:
        print(listing(rows))


def own_checkout() -> Path:
    """The nearest folder above this file that holds the package; the working directory if there is none."""
    above = Path(__file__).resolve().parents
    return next((folder for folder in above if (folder / "src" / PACKAGE).is_dir()), Path.cwd())


def measured(root: Path) -> list[Row]:
    """All rows of the table.

    Args:
        root: Root of the checkout.
    """
    source = root / "src" / PACKAGE
    sys.path.insert(0, str(root / "src"))
    return [
        *folder_rows(source),
        circle_row(source),
        *run_rows(source),
        mistyped_row(root),
        text_row(),
        *name_rows(source),
        tracked_row(root),
        import_row(root),
    ]


def table(rows: Iterable[Row]) -> str:
    """A Markdown table.

    Args:
        rows: Its lines.
    """
    return "\n".join(["| Figure | Value |", "| --- | ---: |", *(f"| {row.figure} | {row.value} |" for row in rows)])


def listing(rows: Iterable[Row]) -> str:
    """What was counted, as one Markdown list for each row that has details.

    Args:
        rows: Lines of the table.
    """
    return "".join(
        f"\n{row.figure}:\n\n" + "".join(f"- {detail}\n" for detail in row.details) for row in rows if row.details
    )


def folder_rows(source: Path) -> list[Row]:
    """Files directly within each folder of the package.

    Args:
        source: Folder of the package.
    """
    counts = Counter(str(file.parent.relative_to(source.parent)) for file in source.rglob("*.py"))
    crowded = [f"{folder} {count}" for folder, count in counts.most_common() if count > CROWDED]
    folder, most = counts.most_common(1)[0]
    return [
        Row(f"folders with more than {CROWDED} files, of {len(counts)}", str(len(crowded)), tuple(crowded)),
        Row("most files in a folder", f"{most} ({folder})"),
    ]


def circle_row(source: Path) -> Row:
    """Groups of modules that import one another in a circle, imports within functions included.

    Args:
        source: Folder of the package.
    """
    circles = [" ↔ ".join(circle) for circle in circles_of(imports_of(source))]
    return Row("import circles", str(len(circles)), tuple(circles))


def imports_of(source: Path) -> dict[str, set[str]]:
    """Modules of the package that each module imports.

    An import of a submodule counts for that submodule alone, not for the packages above it.

    Args:
        source: Folder of the package.
    """
    files = {module_name(file, source): file for file in source.rglob("*.py")}
    return {
        name: {
            target
            for statement in import_statements(ast.parse(file.read_text(encoding="utf-8")))
            for wanted in wanted_names(statement, name if file.stem == "__init__" else name.rpartition(".")[0])
            if (target := nearest_module(wanted, files)) not in (None, name)
        }
        for name, file in files.items()
    }


def module_name(file: Path, source: Path) -> str:
    """Dotted name of the module in a file.

    Args:
        file: A Python file of the package.
        source: Folder of the package.
    """
    return ".".join(file.relative_to(source.parent).with_suffix("").parts).removesuffix(".__init__")


def import_statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements at any depth, except those for type checkers alone.

    Args:
        node: Where to look.
    """
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
        children: Iterable[ast.AST] = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from import_statements(child)


def wanted_names(statement: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """Dotted names that a statement asks for.

    Args:
        statement: An import.
        package: Package that holds the statement, from which relative imports count.
    """
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    above = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
    return [".".join([*above, *filter(None, [statement.module]), alias.name]) for alias in statement.names]


def nearest_module(name: str, modules: Mapping[str, Path]) -> str | None:
    """The module of the package that a dotted name lies in, or is; None if it lies elsewhere.

    Args:
        name: Such as ``"scionet.errors.PruneError"``.
        modules: Modules of the package.
    """
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def circles_of(graph: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Largest groups of nodes that all reach one another, of two nodes or more.

    Args:
        graph: Where the edges of each node lead.
    """
    reached = {node: reachable(graph, node) for node in graph}
    groups = {tuple(sorted(other for other in reached[node] if node in reached[other])) for node in graph}
    return sorted(group for group in groups if len(group) > 1)


def reachable(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    """Nodes at the ends of paths of one edge or more.

    Args:
        graph: Where the edges of each node lead.
        start: Where the paths begin.
    """
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(graph[node])
    return found


@dataclass
class Watch:
    """A profile function that sees the calls of the package's functions.

    Attributes:
        source: Folder of the package.
        called: Code of every function that was called.
        stacks: For each call of the function that picks units, the package's frames from the outermost on.
    """

    source: Path
    called: set[CodeType] = field(default_factory=set)
    stacks: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Take note of one call, in the form that `sys.setprofile` asks for."""
        code = frame.f_code
        if event != "call" or not self.owns(code):
            return
        self.called.add(code)
        picks = code.co_qualname == PICKER[1] and Path(code.co_filename) == self.source / PICKER[0]
        if picks and threading.current_thread() is threading.main_thread():
            self.stacks.append(self.stack(frame))

    def owns(self, code: CodeType) -> bool:
        """Whether code stands in a file of the package."""
        return code.co_filename.startswith(f"{self.source}{os.sep}")

    def stack(self, frame: FrameType | None) -> tuple[str, ...]:
        """Names of the package's frames up to this one, the outermost first."""
        names = []
        while frame is not None:
            if self.owns(frame.f_code):
                names.append(f"{Path(frame.f_code.co_filename).relative_to(self.source)}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        return tuple(reversed(names))


@dataclass
class CountedBatches:
    """Calibration data that know how often they were iterated.

    Attributes:
        batches: The data.
        passes: Number of iterations that began.
        read: Number of batches that were handed out.
    """

    batches: list[Any]
    passes: int = 0
    read: int = 0

    def __iter__(self) -> Iterator[Any]:
        """Count at once, not only when the first batch is asked for."""
        self.passes += 1
        return self._counted()

    def _counted(self) -> Iterator[Any]:
        for batch in self.batches:
            self.read += 1
            yield batch


def run_rows(source: Path) -> list[Row]:
    """What one `prune` of a small network with default settings goes through.

    Args:
        source: Folder of the package.
    """
    watch, data = watched_prune(source, EXAMPLES)
    with_model = sorted(where(code, source) for code in watch.called if takes_model(code))
    others = sorted({where(code, source) for code in watch.called & annotated(watch.called)} - set(with_model))
    return [
        *stack_rows(watch.stacks),
        passes_row(data),
        passes_row(watched_prune(source, FEW_EXAMPLES)[1]),
        Row("functions called that have a parameter `model`", str(len(with_model)), tuple(with_model)),
        Row("- or one annotated `nn.Module`", str(len(with_model) + len(others)), tuple(others)),
    ]


def passes_row(data: CountedBatches) -> Row:
    """How often the data were iterated.

    Args:
        data: What `prune` was given.
    """
    examples = sum(len(batch) for batch in data.batches)
    read = f"{data.read} batches read, of {len(data.batches)} that there are"
    return Row(f"passes over the caller's data, {examples:,} examples", str(data.passes), (read,))


def watched_prune(source: Path, examples: int) -> tuple[Watch, CountedBatches]:
    """Prune a small network and look on.

    Args:
        source: Folder of the package.
        examples: Number of examples, in four batches.
    """
    torch, prune = importlib.import_module("torch"), package(source).prune
    random = torch.Generator().manual_seed(0)
    data = CountedBatches([torch.randn(examples // 4, 3, 12, 12, generator=random) for _ in range(4)])
    model, watch = small_network(torch), Watch(source)
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        prune(model, data, "macs<=50%", example_inputs=torch.zeros(1, 3, 12, 12))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return watch, data


def package(source: Path) -> Any:
    """The package, made sure to be that of the measured checkout.

    Args:
        source: Folder of the package.

    Raises:
        RuntimeError: If another checkout was imported.
    """
    scionet = importlib.import_module(PACKAGE)
    if Path(str(scionet.__file__)).resolve().parent != source:
        raise RuntimeError(
            f"{PACKAGE} was imported from {scionet.__file__}, not from {source}; use a fresh interpreter"
        )
    return scionet


def small_network(torch: Any) -> Any:
    """Two convolutions and a linear layer, with fixed random weights.

    Args:
        torch: The module.
    """
    nn = torch.nn
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(3, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ]
        return nn.Sequential(*layers, nn.Linear(32, 4)).eval()


def stack_rows(stacks: list[tuple[str, ...]]) -> list[Row]:
    """The deepest and the flattest way from `prune` to the pick of a unit.

    Args:
        stacks: Frames of each call of the function that picks.
    """
    if not stacks:
        return [Row("frames from `prune` to the pick of a unit", "not seen")]
    most, fewest = max(stacks, key=len), min(stacks, key=len)
    return [
        Row("frames from `prune` to the pick of a unit, most", str(len(most)), most),
        Row(f"frames from `prune` to the pick of a unit, fewest of {len(stacks)} calls", str(len(fewest)), fewest),
    ]


def takes_model(code: CodeType) -> bool:
    """Whether a function has a parameter `model`.

    Args:
        code: Of the function.
    """
    return "model" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def annotated(codes: Iterable[CodeType]) -> set[CodeType]:
    """The functions with a parameter annotated as a module of torch, alone or among other types.

    Args:
        codes: Code of functions.
    """
    files = {code.co_filename for code in codes}
    places = {(file, *place) for file in files for place in annotated_places(Path(file))}
    return {code for code in codes if (code.co_filename, code.co_firstlineno, code.co_name) in places}


def annotated_places(file: Path) -> Iterator[tuple[int, str]]:
    """First line, decorators included, and name of each function with a parameter annotated as a module.

    Args:
        file: A Python file of the package.
    """
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if any(each.annotation and "nn.Module" in ast.unparse(each.annotation) for each in parameters):
                yield min(line.lineno for line in (node, *node.decorator_list)), node.name


def where(code: CodeType, source: Path) -> str:
    """File within the package and name of a function.

    Args:
        code: Of the function.
        source: Folder of the package.
    """
    return f"{Path(code.co_filename).relative_to(source)}:{code.co_qualname}"


def mistyped_row(root: Path) -> Row:
    """How many mistyped choices pyright finds; a name that the package lacks leaves its choice unfound.

    Args:
        root: Root of the checkout.
    """
    rules: dict[int, str] = {}
    for error in pyright_errors("\n".join([*MISTYPED_HEAD, *MISTYPED, ""]), root):
        choice = error["range"]["start"]["line"] - len(MISTYPED_HEAD)
        if choice >= 0 and error.get("rule") in RULES:
            rules.setdefault(choice, error["rule"])
    details = tuple(f"`{MISTYPED[choice]}`: {rule}" for choice, rule in sorted(rules.items()))
    return Row(f"mistyped choices that pyright finds, of {len(MISTYPED)}", str(len(rules)), details)


def pyright_errors(code: str, root: Path) -> list[dict[str, Any]]:
    """Errors that pyright finds in a program that uses the package.

    Args:
        code: The program.
        root: Root of the checkout.

    Raises:
        FileNotFoundError: If pyright is not installed.
    """
    beside = Path(sys.executable).parent / "pyright"
    pyright = str(beside) if beside.exists() else shutil.which("pyright")
    if pyright is None:
        raise FileNotFoundError("pyright is not installed; run this with the Python of .venv (make test makes it)")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "choices.py").write_text(code, encoding="utf-8")
        settings = {"typeCheckingMode": "standard", "extraPaths": [str(root / "src")]}
        (Path(folder) / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
        command = [pyright, "--outputjson", "--pythonpath", sys.executable, "--project", folder]
        printed = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    return [found for found in json.loads(printed)["generalDiagnostics"] if found["severity"] == "error"]


def text_row() -> Row:
    """Length of what the sites of a ResNet-18 print."""
    torch, scionet = importlib.import_module("torch"), importlib.import_module(PACKAGE)
    model = imported_torchvision(torch).models.resnet18(weights=None)
    text = str(scionet.discover(model, torch.randn(1, 3, 224, 224)))
    return Row("characters of `str(discover(resnet18))`", f"{len(text):,}")


def imported_torchvision(torch: Any) -> Any:
    """The module torchvision, also where its compiled extension does not fit the installed torch.

    The import then fails for want of two operators that no ResNet needs; it is enough to declare them.

    Args:
        torch: The module.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


def name_rows(source: Path) -> list[Row]:
    """Names of top-level classes and of files that stand for two things or more.

    Args:
        source: Folder of the package.
    """
    classes, stems = defaultdict(list), defaultdict(list)
    for file in sorted(source.rglob("*.py")):
        place = str(file.relative_to(source))
        stems[file.stem].append(place)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(place)
    del stems["__init__"]
    twice = [repeated(classes), repeated(stems)]
    return [
        Row("names used twice or more", str(sum(map(len, twice)))),
        Row("- of classes", str(len(twice[0])), twice[0]),
        Row("- of files", str(len(twice[1])), twice[1]),
    ]


def repeated(places: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Names with several places.

    Args:
        places: Where each name stands.
    """
    return tuple(f"{name}: {', '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1)


def tracked_row(root: Path) -> Row:
    """Files that git tracks.

    Args:
        root: Root of the checkout.
    """
    listed = subprocess.run(["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True).stdout
    return Row("tracked files", f"{len(listed.splitlines()):,}")


def import_row(root: Path, repeats: int = 3) -> Row:
    """Median time of the import of `prune` where torch is imported already.

    Args:
        root: Root of the checkout.
        repeats: Number of fresh interpreters.
    """
    command = [sys.executable, "-c", TIMED_IMPORT]
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    seconds = [
        float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]
    each = tuple(f"{value:.3f} s" for value in seconds)
    return Row("`from scionet import prune` beyond `import torch`", f"{statistics.median(seconds):.2f} s", each)


if __name__ == "__main__":
    main()
