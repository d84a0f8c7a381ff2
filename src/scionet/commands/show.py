"""Output of the commands: results on standard output, everything else on standard error. Does not import torch."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from scionet.commands.options import Common
from scionet.escaping import printable


def complain(text: str) -> None:
    """Print an error."""
    _errors().print(f"error: {printable(text)}")


def warn(text: str) -> None:
    """Print a warning."""
    _errors().print(f"warning: {printable(text)}", style="yellow")


def advise(command: Common, *lines: str) -> None:
    """Print what to do next; nothing with ``--quiet``."""
    if not command.quiet:
        for line in lines:
            _errors().print(printable(line))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print results as a table: one row for each quantity, named in the first column."""
    shown = Table("", *columns, title=printable(title), title_justify="left", show_header=any(columns))
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows:
        shown.add_row(*map(printable, row))
    Console(markup=False, highlight=False).print(shown)


def line(text: str) -> None:
    """Print a result in one line, without wrapping it."""
    Console(markup=False, highlight=False, soft_wrap=True).print(printable(text))


def _errors() -> Console:
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
