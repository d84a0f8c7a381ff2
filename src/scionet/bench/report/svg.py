"""Figures as inline SVG with real text and the colours of the page; equal input gives equal bytes."""

import io
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scionet.escaping import printable
from scionet.extras import extra

with extra("report"):
    import matplotlib
    from matplotlib.figure import Figure


INK, MUTED, RULE, PAPER, ACCENT, SKY = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
"""Placeholders for colours of the page: text, secondary text, lines, background, emphasis, and a colour of the palette
that is sky blue on white and yellow on black."""

THEME = {
    **{INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"},
    **{PAPER: "var(--paper)", ACCENT: "var(--accent)", SKY: "var(--sky)"},
}

PALETTE = (ACCENT, "#d55e00", "#009e73", "#cc79a7", "#e69f00", SKY, INK)
"""The palette of Okabe and Ito (2008), which is safe for colour-blind readers. Blue (emphasis), sky blue and black
(text) come from the theme; yellow is invisible on white and is used on dark pages only."""

MARKERS = ("o", "s", "^", "D", "v", "<", ">", "p")

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the style of all figures; figures must be made and rendered inside."""
    style: dict[Any, Any] = {
        **{"svg.fonttype": "none", "svg.hashsalt": "scionet", "font.family": "DejaVu Sans", "font.size": 9.5},
        **{"text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": RULE, "axes.titlelocation": "left"},
        **{"axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlecolor": INK, "axes.titlepad": 10},
        **{"xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED},
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": RULE},
        **{"grid.linewidth": 0.5, "axes.axisbelow": True, "axes.facecolor": "none", "figure.facecolor": "none"},
        **{"xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0},
        **{"text.parse_math": False},  # a dollar sign in a name is no formula
        **{"axes.linewidth": 0.8, "lines.solid_capstyle": "round", "figure.constrained_layout.use": True},
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        for text in (r"Glyph \d+ .* missing from", "Matplotlib currently does not support"):
            warnings.filterwarnings("ignore", text)  # the reader's browser draws the text, with a font of its own
        yield


def render(figure: Figure, name: str, title: str = "", description: str = "") -> str:
    """Render a figure as an ``<svg>`` element for HTML.

    Args:
        figure: The figure.
        name: Prefix of all ids, which makes them unique on a page.
        title: What the figure shows, for screen readers; empty if adjacent text says it.
        description: The main result in the figure, for screen readers.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ET.fromstring(stream.getvalue())
    _strip(root)
    _prefix(root, name)
    _describe(root, name, title, description)
    ET.register_namespace("", SVG)
    for element in root.iter():
        for name_of, value in element.attrib.items():
            for colour, variable in THEME.items():
                value = value.replace(colour, variable)
            element.set(name_of, value)
    return ET.tostring(root, encoding="unicode").replace(f' xmlns="{SVG}"', "", 1)


def _strip(root: ET.Element) -> None:
    """Remove metadata and the style sheet, which would apply to the whole page."""
    for child in root.findall(f"{{{SVG}}}metadata"):
        root.remove(child)
    for definitions in root.iter(f"{{{SVG}}}defs"):
        for style in definitions.findall(f"{{{SVG}}}style"):
            definitions.remove(style)


def _prefix(root: ET.Element, name: str) -> None:
    """Keep only referenced ids, with the prefix of the figure; replace ``xlink:href`` by ``href``."""
    used = ET.tostring(root, encoding="unicode")
    for element in root.iter():
        if link := element.attrib.pop(f"{{{XLINK}}}href", None):
            element.set("href", link.replace("#", f"#{name}-"))
        if clip := element.get("clip-path"):
            element.set("clip-path", clip.replace("#", f"#{name}-"))
        if (own := element.attrib.pop("id", None)) and f"#{own}" in used:
            element.set("id", f"{name}-{own}")


def _describe(root: ET.Element, name: str, title: str, description: str) -> None:
    """Describe the figure for screen readers or hide it from them; let the page scale it down from its natural size."""
    texts = {tag: text for tag, text in (("title", title), ("desc", description)) if text}
    for place, (tag, text) in enumerate(texts.items()):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = printable(text)
        root.insert(place, element)
    root.attrib |= {"role": "img"} if texts else {"aria-hidden": "true"}
    if texts:
        root.set("aria-labelledby", " ".join(f"{name}-{tag}" for tag in texts))
    width = float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"]
    root.set("style", f"max-width: {width * 4 / 3:.0f}px")
