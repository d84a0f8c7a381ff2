"""The page and the figure of an analysis: chapters with panels, tables and a plain reading."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scionet.bench.report.svg import ACCENT, INK, MARKERS, MUTED, PALETTE, PAPER, RULE, SKY, drawing, render
from scionet.escaping import printable
from scionet.extras import extra

with extra("report"):
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

SIZE = (5.2, 4.6)
"""Width and height of a panel in inches."""
COLUMNS = 3
"""Panels side by side in the figure."""
LIGHT = {INK: "#1c2024", MUTED: "#5c636b", RULE: "#d9dce0", PAPER: "#ffffff", ACCENT: "#0072b2", SKY: "#56b4e9"}
"""The colours of a figure that stands alone."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FRACTION = re.compile(r"\d+\.\d{3,}")
FEW_POINTS = 12
"""Lines with at most this number of points have markers."""


@dataclass(frozen=True)
class Line:
    """A line of a panel.

    Attributes:
        label: Its name.
        x: Positions.
        y: Values.
        dashed: Whether it is a bound or another thing to compare with.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """A plot.

    Attributes:
        title: What it shows.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        lines: Its lines.
        x_log: Whether the horizontal axis is logarithmic.
        y_log: Whether the vertical axis is logarithmic.
    """

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    x_log: bool = True
    y_log: bool = True


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        columns: Names of the columns.
        rows: Texts of the cells; the first is the name of the row.
        caption: What the columns mean.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its title.
        lead: The question, and how it was measured.
        panels: Its plots.
        grid: Its table.
        reading: What the numbers say, one text per paragraph.
        in_figure: Number of plots, from the first, that the figure shows, too.
    """

    title: str
    lead: str
    panels: tuple[Panel, ...]
    grid: Grid
    reading: tuple[str, ...]
    in_figure: int = 1


def page(title: str, subtitle: str, sections: Sequence[Section], made: Sequence[str]) -> str:
    """A page that needs no other file.

    Args:
        title: Its title.
        subtitle: What was measured, on what.
        sections: Its parts.
        made: Lines about the software, the machine and the command.
    """
    loaders = [PackageLoader("scionet.commands.analyses", "."), PackageLoader("scionet.bench.report", ".")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = [(each, [_inline(p, f"p{i}-{j}") for j, p in enumerate(each.panels)]) for i, each in enumerate(sections)]
    template = environment.get_template("study_page.html")
    return template.render(title=title, subtitle=subtitle, parts=parts, made=made)


def overview(sections: Sequence[Section]) -> str:
    """A figure with the first panels of each section, as SVG that stands alone."""
    panels = [panel for section in sections for panel in section.panels[: section.in_figure]]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with drawing():
        figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows), facecolor=PAPER)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for place, panel in zip(axes, panels, strict=False):
            _draw(place, panel)
        for place in axes[len(panels) :]:
            place.axis("off")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    for placeholder, colour in LIGHT.items():
        text = text.replace(placeholder, colour)
    one_line_per_path = re.sub(r" \n(?=[A-Za-z])", " ", text)
    return re.sub(r' d="[^"]*"', lambda path: _FRACTION.sub(_rounded, path[0]), one_line_per_path)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}"


def _inline(panel: Panel, name: str) -> str:
    with drawing():
        figure = Figure(figsize=SIZE)
        _draw(figure.subplots(), panel)
        return render(figure, name, panel.title, f"{panel.y} against {panel.x}")


def _draw(axes: Axes, panel: Panel) -> None:
    solid = [line for line in panel.lines if not line.dashed]
    for line in panel.lines:
        style: dict[str, Any] = {"color": MUTED, "linestyle": (0, (4, 2)), "linewidth": 1}
        if not line.dashed:
            place = solid.index(line)
            marker = MARKERS[place % len(MARKERS)] if len(line.x) <= FEW_POINTS else None
            style = {"color": PALETTE[place % len(PALETTE)], "marker": marker, "markersize": 5, "linewidth": 1.6}
        axes.plot(line.x, line.y, label=printable(line.label), **style)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.set_xscale("log" if panel.x_log else "linear")
    axes.set_yscale("log" if panel.y_log else "linear")
    for axis, log in ((axes.xaxis, panel.x_log), (axes.yaxis, panel.y_log)):
        if log:
            axis.set_major_formatter(FuncFormatter(_power))
            axis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _power(value: float, _: int) -> str:
    """A tick of a logarithmic axis: a number from 0.001 to 1000, or a power of ten."""
    if 1e-3 <= value <= 1e3:
        return f"{value:g}"
    return f"10{str(round(math.log10(value))).translate(_SUPERSCRIPTS)}"


def _shown(value: Any) -> Any:
    """Texts become printable before they are escaped. Figures are markup already."""
    return printable(value) if type(value) is str else value
