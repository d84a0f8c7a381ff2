import re

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from support import lean

from scionet import torch_internals

TOOLS = {"import-linter", "pre-commit", "pyright", "ruff"}
"""What checks the sources, and is not needed where the tests run."""
PAGE = (lean.ROOT / "docs" / "versions.md").read_text()


def constraints(name: str) -> dict[str, SpecifierSet]:
    """The versions in a file of constraints, by canonical name."""
    lines = [line for line in (lean.ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(each.name): each.specifier for each in map(Requirement, lines)}


TESTED, OLDEST = constraints("constraints.txt"), constraints("constraints-oldest.txt")
ACCEPTED = {
    requirement.name: requirement.specifier
    for text in [*lean.PROJECT["dependencies"], *lean.PROJECT["optional-dependencies"]["vision"]]
    for requirement in [Requirement(text)]
}


def cells(first: str) -> list[str]:
    """The cells of the row that begins so in a table of the page."""
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("package", ["torch", "torchvision", "timm"])
def test_the_page_has_the_versions_of_the_constraints(package: str) -> None:
    assert cells(package) == [package, f"`{ACCEPTED[package]}`", str(TESTED[package]).removeprefix("==")]
    assert str(TESTED[package]).removeprefix("==") in ACCEPTED[package]


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    extras = lean.PROJECT["optional-dependencies"]
    texts = [*lean.PROJECT["dependencies"], *(text for name in extras.keys() - {"dask"} for text in extras[name])]
    needed = {
        canonicalize_name(each.name): each.specifier for each in map(Requirement, texts) if each.name != "scionet"
    }
    bounds = {name: Version(str(specifier).removeprefix(">=")) for name, specifier in needed.items()}
    oldest = {name: Version(str(specifier).removeprefix("==")) for name, specifier in OLDEST.items()}
    assert {name: bound for name, bound in bounds.items() if name not in TOOLS} == oldest


def test_the_page_has_every_extra_with_its_packages() -> None:
    extras = lean.PROJECT["optional-dependencies"]
    firsts = " ".join(re.findall(r"^\| (`[^|]+`) \|", PAGE, re.MULTILINE))
    assert [extra for extra in extras if f"`{extra}`" not in firsts] == []
    for extra in extras.keys() - {"all", "dev", "ray", "dask"}:
        assert set(map(canonicalize_name, cells(f"`{extra}`")[2].split(", "))) == lean.of_extra(extra)


def test_the_page_has_every_private_name_of_torch() -> None:
    assert [name for name in torch_internals.__all__ if f"`{name}`" not in PAGE] == []
