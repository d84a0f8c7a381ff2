"""Rows as Markdown, CSV or a rich table for the terminal, and generated sections of documents."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from scionet.bench.records.record_files import RecordError, read_text, write_text
from scionet.bench.report.summary import Row, Spread
from scionet.escaping import markdown, printable, spreadsheet

Cell = Callable[[Row], str]

COLUMNS: dict[str, Cell] = {
    "network": lambda row: row.network,
    "data": lambda row: row.dataset,
    "budget": lambda row: row.budget,
    "method": lambda row: row.method,
    "accuracy %": lambda row: row.accuracy.text(row.digits),
    "points lost": lambda row: text(row.drop, row.digits),
    "MACs %": lambda row: row.macs.text(1),
    "parameters %": lambda row: row.params.text(1),
    "weights %": lambda row: text(row.weights, 3),
    "MACs without zeros %": lambda row: text(row.sparse_macs, 2),
    "empty layers": lambda row: text(row.emptied, 1),
    "speed-up": lambda row: text(row.speedup, 2),
    "seconds": lambda row: text(row.seconds, 1),
    "runs": lambda row: str(row.runs),
}
"""Columns of the tables, in order."""

NUMBERS = ("accuracy", "drop", "macs", "params", "weights", "sparse_macs", "emptied", "speedup", "seconds")
"""Quantities of a row, by their names in CSV files."""


def text(spread: Spread | None, digits: int) -> str:
    """A spread as text; empty for None."""
    return spread.text(digits) if spread else ""


def to_markdown(rows: Sequence[Row]) -> str:
    """All rows and columns as a Markdown table without a final newline."""
    used = _used(rows)
    aligned = [":--" if name in ("network", "data", "budget", "method") else "--:" for name in used]
    return _markdown([list(used), aligned, *([cell(row) for cell in used.values()] for row in rows)])


def to_matrix(rows: Sequence[Row]) -> str:
    """Accuracy in percent as a Markdown table: methods down, networks and budgets across; a dash for missing runs."""
    columns = list(dict.fromkeys((row.network, row.dataset, row.budget) for row in rows))
    found = {(row.method, (row.network, row.dataset, row.budget)): row for row in rows}
    if len(found) < len(rows):
        raise RecordError("a table holds the rows of one experiment; make a table for each experiment")
    several = len({column[:2] for column in columns}) > 1
    lines = [
        [method, *(_accuracy(found.get((method, column))) for column in columns if column[2])]
        for method in dict.fromkeys(row.method for row in rows if row.budget)
    ]
    heads = [" ".join(c for c in ((column[0],) if several else ()) + column[2:]) for column in columns if column[2]]
    dense = ["dense", *(_accuracy(found[("dense", (*column[:2], ""))]) for column in columns if column[2])]
    return _markdown([["method", *heads], [":--"] + ["--:"] * len(heads), dense, *lines])


def to_csv(rows: Sequence[Row]) -> str:
    """Means and deviations as CSV for further computation; missing values are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = [f"{name}_{part}" for name in NUMBERS for part in ("mean", "sd")]
    writer.writerow(["experiment", "network", "dataset", "budget", "method", "runs", *heads])
    for row in rows:
        spreads = [getattr(row, name) for name in NUMBERS]
        numbers = [n for s in spreads for n in ((s.mean, s.deviation) if s else (None, None))]
        names = (row.experiment, row.network, row.dataset, row.budget, row.method)
        writer.writerow([*map(spreadsheet, names), row.runs, *numbers])
    return stream.getvalue()


def to_rich(rows: Sequence[Row], title: str | None = None) -> Table:
    """A table for the terminal, with a rule between budgets."""
    used = _used(rows)
    table = Table(title=title and Text(printable(title)))
    for name in used:
        table.add_column(name, justify="left" if name in ("network", "data", "budget", "method") else "right")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        ends = following is None or (row.network, row.budget) != (following.network, following.budget)
        table.add_row(*(Text(printable(cell(row))) for cell in used.values()), end_section=ends)
    return table


def replace_between(path: Path, name: str, content: str) -> bool:
    """Replace the text between ``<!-- begin:NAME -->`` and ``<!-- end:NAME -->`` in a document.

    Args:
        path: The document.
        name: NAME in the two markers.
        content: The new text, which gets lines of its own.

    Returns:
        Whether the document changed.

    Raises:
        RecordError: If the document cannot be read or written, or does not have each marker once and in order.
    """
    document = read_text(path)
    begin, end = f"<!-- begin:{name} -->", f"<!-- end:{name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if document.count(begin) != 1 or document.count(end) != 1 or not pattern.search(document):
        raise RecordError(f"{path} must have {begin} once and {end} once after it; insert both where the text belongs")
    changed = pattern.sub(lambda _: f"{begin}\n{content.strip()}\n{end}", document)
    if changed != document:
        write_text(path, changed)
    return changed != document


def _used(rows: Sequence[Row]) -> dict[str, Cell]:
    """The columns that are not empty in every row."""
    return {name: cell for name, cell in COLUMNS.items() if any(cell(row) for row in rows)}


def _accuracy(row: Row | None) -> str:
    return row.accuracy.text(row.digits) if row else "–"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(map(markdown, line)) + " |" for line in lines)
