"""Pieces of text that the `repr` and the tables of several classes share."""

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as ``"1 site"`` or ``"4,800 units"``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shortened(name: str, length: int) -> str:
    """A qualified name of at most `length` characters (4 or more); its beginning is left out if it is longer."""
    return name if len(name) <= length else f"...{name[3 - length :]}"


def first_and_count(names: Sequence[str], length: int) -> str:
    """The first of several names and the number of the others, such as ``"conv1 +3"``, in at most `length` characters.

    Args:
        names: Names of weights; the suffix ``".weight"`` is left out.
        length: The limit, wide enough for the number.
    """
    if not names:
        return "-"
    others = f" +{len(names) - 1}" if len(names) > 1 else ""
    return shortened(names[0].removesuffix(".weight"), length - len(others)) + others
