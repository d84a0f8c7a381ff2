"""The page: complete, well-formed, self-contained, and as it should be in a real browser."""

import dataclasses
import html as entities
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import made_up_records as made_up

from scionet.bench.records.record import RunRecord
from scionet.bench.records.record_files import RecordError
from scionet.bench.report.page import html, write_html

TITLE = "Digits & <friends>"
SMALL = {"stem": 16}
VOID = {"meta", "link", "br", "img", "hr", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Reader(HTMLParser):
    """Collects what the tests ask for; strict about nesting."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.stack == []
    return reader


@pytest.fixture(scope="module")
def records() -> list[RunRecord]:
    return made_up.all_records()


@pytest.fixture(scope="module")
def page(records: list[RunRecord]) -> str:
    return html(records, TITLE)


def test_page_is_well_formed_with_unique_ids_and_no_dangling_reference(page: str) -> None:
    reader = read(page)
    ids = Counter(attrs["id"] for _, attrs in reader.attributes if "id" in attrs)
    assert max(ids.values()) == 1
    named = {i for _, attrs in reader.attributes for i in (attrs.get("aria-labelledby") or "").split()}
    linked = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", page))
    assert named
    assert linked
    assert named | linked <= set(ids)


def test_page_loads_nothing(page: str) -> None:
    reader = read(page)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(reader.tags)
    addresses = [attrs.get(name) for _, attrs in reader.attributes for name in ("src", "href", "xlink:href", "srcset")]
    assert all(address.startswith("#") for address in addresses if address)
    assert not re.search(r"@import|@font-face|url\((?!#)", page)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")


def test_every_figure_has_a_name_or_is_hidden_beside_its_text(page: str) -> None:
    figures = [attrs for tag, attrs in read(page).attributes if tag == "svg"]
    named = [a for a in figures if a.get("role") == "img" and a.get("aria-labelledby")]
    hidden = [a for a in figures if a.get("aria-hidden") == "true"]
    assert len(hidden) == len(made_up.LOST)
    assert len(named) == len(figures) - len(hidden) == 2 + len(made_up.LOST) + 1 + len(made_up.SITES)
    assert '<html lang="en">' in page


def test_page_says_what_the_records_say(page: str, records: list[RunRecord]) -> None:
    text = read(page).text
    for word in (
        TITLE,
        "98.6",
        *made_up.LOST,
        *made_up.SITES,
        *made_up.SUMMARIES.values(),
        made_up.provenance().command,
    ):
        assert word in text
    mine = [100 * r.pruned.accuracy for r in records if (r.spec.method, r.spec.budget) == ("forward", "macs<=50%")]
    assert len(mine) == 3
    assert f"{np.mean(mine):.1f} ± {np.std(mine, ddof=1):.1f} %" in text
    assert "torch 2.13.0" in text
    assert "6f1c" * 4 in text
    assert "90 runs" in text


def test_texts_from_records_are_escaped() -> None:
    run = made_up.record()
    sharp = "<script>alert(1)</script>"
    bad = dataclasses.replace(
        run,
        spec=dataclasses.replace(run.spec, method=sharp, network=sharp, dataset=sharp),
        sites=tuple(dataclasses.replace(s, name=sharp + s.name) for s in run.sites),
        summary=sharp,
        notes=(sharp,),
        provenance=dataclasses.replace(run.provenance, command=sharp, processor=sharp),
    )
    page = html([bad], sharp)
    assert sharp not in page
    assert read(page).tags["script"] == 0


def test_same_records_in_any_order_give_the_same_page() -> None:
    kinds = [("forward", "macs<=70%", 0), ("forward", "macs<=70%", 1), ("l1", "macs<=70%", 0), ("l1", "macs<=50%", 0)]
    few = [made_up.record(*kind, sites=SMALL) for kind in [*kinds, ("forward", "macs<=50%", 0)]]
    assert html(few, TITLE) == html(few[::-1], TITLE)


def test_one_run_alone_makes_a_page_without_deviations_and_without_empty_parts() -> None:
    run = made_up.record("random")
    bare = dataclasses.replace(
        run,
        sites=(),
        summary="",
        notes=(),
        max_relative_difference=None,
        dense=dataclasses.replace(run.dense, latency=None),
        pruned=dataclasses.replace(run.pruned, latency=None),
    )
    text = read(html([bare], "One")).text
    assert not re.search(r"\d ± \d", text)
    assert not any(
        part in text for part in ("Widths", "Latency", "Speed-up ×", "Error as units", "The methods", "Verified")
    )


def test_a_network_that_gets_better_and_one_that_stays_are_drawn() -> None:
    page = html([made_up.record(correct=358, sites=SMALL), made_up.record("l1", correct=355, sites=SMALL)], "Better")
    assert "-0.8" in read(page).text


def test_two_networks_make_two_chapters() -> None:
    reader = read(html([made_up.record(network="one", sites=SMALL), made_up.record(network="two", sites=SMALL)], "Two"))
    assert reader.tags["article"] == 2
    assert reader.tags["nav"] == 1
    ids = Counter(attrs["id"] for _, attrs in reader.attributes if "id" in attrs)
    assert max(ids.values()) == 1


def test_the_page_is_written_to_a_file(tmp_path: Path) -> None:
    runs = [made_up.record(sites=SMALL)]
    write_html(runs, tmp_path / "page.html", TITLE)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == html(runs, TITLE)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_no_records_or_an_unknown_headline_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no records"):
        write_html([], tmp_path / "page.html", "None")
    with pytest.raises(RecordError, match="has the method 'magic'"):
        write_html([made_up.record()], tmp_path / "page.html", "None", headline="magic")
    assert list(tmp_path.iterdir()) == []


def test_a_report_needs_no_torch(run_python: Callable[[str], str]) -> None:
    assert run_python("import sys, scionet.bench.report.page; print('torch' in sys.modules)") == "False\n"


browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium binary on the PATH to look at the page")
MEASURE = """<script>addEventListener("load", () => {
  const view = document.querySelector("iframe")?.contentDocument ?? document, root = view.documentElement;
  view.querySelectorAll("details").forEach(e => { e.open = true; });
  const wide = [...view.querySelectorAll("svg, p, h1, h2, h3, li, dd, summary, figure")]
    .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > root.clientWidth + 1);
  const figures = [...view.querySelectorAll("figure svg")].filter(e => e.getBoundingClientRect().height > 40);
  document.body.dataset.found = [root.scrollWidth, root.clientWidth, wide.length, figures.length].join();
});</script>"""


def chromium(tmp_path: Path, page: Path, *flags: str) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri()]
    done: Any = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(dom: str) -> tuple[int, int, int, int]:
    """Scroll width, client width, elements that stick out, visible figures."""
    found = re.search(r'data-found="(\d+),(\d+),(\d+),(\d+)"', dom)
    assert found, dom[-500:]
    a, b, c, d = map(int, found.groups())
    return a, b, c, d


@browser
def test_desktop_screenshot_shows_the_page(tmp_path: Path, page: str) -> None:
    path, shot = tmp_path / "page.html", tmp_path / "page.png"
    path.write_text(page, encoding="utf-8")
    chromium(tmp_path, path, "--window-size=1280,1150", f"--screenshot={shot}")
    picture = np.asarray(Image.open(shot).convert("RGB"), dtype=float)
    assert picture.shape == (1150, 1280, 3)
    plots = picture[560:960]
    assert 0.02 < (plots.std(axis=2) > 20).mean() < 0.5  # coloured lines, on much calm ground
    left, right = plots[:, 120:620], plots[:, 660:1160]
    assert min((half.min(axis=2) < 100).mean() for half in (left, right)) > 0.005
    # margins are free
    assert (picture[:, :80] > 240).all()
    assert (picture[:, 1200:] > 240).all()


@browser
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_sideways(tmp_path: Path, page: str, width: int) -> None:
    path = tmp_path / "frame.html"
    frame = f'<iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{entities.escape(page)}"></iframe>'
    path.write_text(f"<!doctype html><body>{frame}{MEASURE}</body>", encoding="utf-8")
    dom = chromium(tmp_path, path, "--window-size=1400,1000", "--virtual-time-budget=3000", "--dump-dom")
    scroll, client, outside, figures = measured(dom)
    assert client == width
    assert scroll == width
    assert outside == 0
    assert figures == 2 + len(made_up.LOST) + 1 + len(made_up.SITES)
