"""What is installed beside scionet's own dependencies, and interpreters in which it is not."""

import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROVIDED = {name: {canonicalize_name(each) for each in made} for name, made in packages_distributions().items()}
"""The distributions that provide each top-level package."""

PREAMBLE = """
import sys
sys.path.append({tests!r})
from support.lean import hide
hide({packages!r})
"""


def of_extra(name: str) -> set[str]:
    """The distributions that an extra names, also through other extras of scionet."""
    named = [Requirement(text) for text in PROJECT["optional-dependencies"][name]]
    own = {canonicalize_name(each.name) for each in named if each.name != "scionet"}
    return own.union(*(of_extra(extra) for each in named if each.name == "scionet" for extra in each.extras))


def core() -> set[str]:
    """The distributions that scionet always needs."""
    return {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}


def distributions_of(package: str) -> set[str]:
    """The distributions of a top-level package; one of the same name where none is installed."""
    return PROVIDED.get(package, {canonicalize_name(package)})


@cache
def beside_core() -> tuple[str, ...]:
    """Installed top-level packages that are there for an extra, or that no dependency of scionet brings along."""
    extras = PROJECT["optional-dependencies"].keys() - {"dev"}
    there = _closure(core()) - set[str]().union(*map(of_extra, extras))
    return tuple(sorted(name for name, made in PROVIDED.items() if not made & there and re.fullmatch(r"\w+", name)))


def without_extras() -> str:
    """Code that hides everything of `beside_core`, to stand at the beginning of a program."""
    return PREAMBLE.format(tests=str(ROOT / "tests"), packages=beside_core())


class Hiding:
    """A finder that knows what all others know, but for some packages."""

    def __init__(self, packages: Iterable[str], finders: list[Any]) -> None:
        self._packages, self._finders = frozenset(packages), finders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self._packages:
            return None
        specs = (finder.find_spec(name, path, target) for finder in self._finders)
        return next((spec for spec in specs if spec is not None), None)


def hide(packages: Iterable[str]) -> None:
    """Make top-level packages of this process as if they were not installed."""
    sys.meta_path[:] = [Hiding(packages, list(sys.meta_path))]
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


def _closure(names: set[str]) -> set[str]:
    """Distributions with everything that they require here."""
    found, left = set[str](), list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += _required(name)
    return found


def _required(name: str) -> list[str]:
    try:
        texts = requires(name) or []
    except PackageNotFoundError:
        return []
    needed = (Requirement(text) for text in texts)
    return [canonicalize_name(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
