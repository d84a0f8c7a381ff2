"""Names in records are shown as they are, and do nothing, in every part of a report."""

import csv
import html as entities
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from support.made_up_records import record

from scionet.bench.records.record import RunRecord
from scionet.bench.report.page import html
from scionet.bench.report.summary import summarise
from scionet.bench.report.tables import to_csv, to_markdown
from scionet.escaping import markdown, printable, spreadsheet

CHARACTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from(
    "$\\`*_[]()<>&|~#=+-@'\"\n\r\t\x00\x1b\u202e:/.w"
)
NAMES = st.text(CHARACTERS, min_size=1, max_size=12)


def named(name: str) -> list[RunRecord]:
    """Records of one run in which everything that can be named has this name."""
    made = record(sites={name: 16, f"{name}2": 8})
    return [replace(made, spec=replace(made.spec, network=name, dataset=name, method=name, experiment=name))]


class Tags(HTMLParser):
    """The tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


PLAIN = sorted(Tags(html(named("plain"), "plain")).found)


@settings(max_examples=4)
@given(NAMES)
@example("$x$ $\\frac{")
@example("<script>alert(1)</script>")
@example("\x00\x1b[31m\ufffe")
@example("#010101")
def test_a_page_shows_every_name_as_it_is(name: str) -> None:
    page = html(named(name), name)
    page.encode()
    assert sorted(Tags(page).found) == PLAIN
    assert printable(name) in entities.unescape(page)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", page)


@given(NAMES)
def test_a_markdown_cell_is_the_text_alone(name: str) -> None:
    table = f"| a |\n| - |\n| {markdown(name)} |"
    parsed = MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"]).parse(table)
    cells = [token for token in parsed if token.type == "inline"]
    assert len(cells) == 2
    assert all(child.type in ("text", "text_special") for child in cells[1].children or ())
    assert "".join(child.content for child in cells[1].children or ()) == printable(name).strip()


@given(NAMES)
def test_a_table_has_a_line_for_each_row(name: str) -> None:
    rows = summarise(named(name))
    assert len(re.split(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", to_markdown(rows))) == 2 + len(rows)


@given(NAMES)
def test_a_csv_cell_is_no_formula_and_one_line(name: str) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(summarise(named(name))))))
    assert [row["network"] for row in rows] == [spreadsheet(name)] * 2
    assert not spreadsheet(name).lstrip().startswith(("=", "+", "-", "@"))
    assert spreadsheet(name).removeprefix("'").isprintable() or printable(name) in spreadsheet(name)
