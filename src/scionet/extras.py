"""Packages that only parts of scionet need, and that are installed by an extra such as ``scionet[train]``."""

from collections.abc import Iterator
from contextlib import contextmanager

from scionet.errors import MissingExtra


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of packages of an extra: one that is not installed becomes an error that says what to do.

    Args:
        name: The extra of pyproject.toml that installs what is imported in the ``with`` block.

    Raises:
        MissingExtra: If a package is not installed; the text has the command to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "scionet":
            raise
        raise MissingExtra(
            f"this needs the package {package}, which is not installed; run: pip install 'scionet[{name}]'"
        ) from error
