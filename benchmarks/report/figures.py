"""The figures of the docs as compact SVG; equal records give equal bytes."""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from scionet.bench.records.record_files import write_text

Curves = Mapping[str, Mapping[str, Any]]

LINE_STYLES: Mapping[str, Mapping[str, Any]] = {
    "guaranteed": {"color": "#e69f00", "linestyle": (0, (5, 2))},
    "random": {"color": "#cc79a7", "linestyle": ":"},
    "greedy": {"color": "#0072b2", "linewidth": 2.6},
    "stochastic": {"color": "#d55e00", "linestyle": "-."},
    "distributed": {"color": "#009e73", "linestyle": "--", "linewidth": 1.2},
    "best": {"color": "#56b4e9", "linewidth": 1.2},
    "least possible": {"color": "#000000", "linewidth": 0.9},
}


def plot_theory(curves: Curves, path: Path) -> None:
    """Plot the errors (top), and their ratio to the errors of greedy selection (bottom)."""
    with figure_of(path, (9.6, 5.4)) as figure:
        panels = figure.subplots(2, len(curves), sharex="col", height_ratios=(3, 2), squeeze=False)
        for column, (site, rows) in enumerate(curves.items()):
            above, below = panels[0, column], panels[1, column]
            size = len(rows["greedy"])
            share = f"guaranteed share {1 - np.exp(-rows['gamma']):.0%}"
            above.set(title=f"{site}, {share}", ylim=(-0.03, 1.03))
            below.set(xlabel="units kept", ylim=(0.9, 2.1), xlim=(0, size))
            below.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            for name in (name for name in LINE_STYLES if name in rows):
                above.plot(range(1, size + 1), rows[name], label=name, **LINE_STYLES[name])
                if name not in ("guaranteed", "least possible"):
                    ratio = np.divide(rows[name], rows["greedy"])
                    # the last units add nothing to the span of the others, so the ratio is 0 / 0
                    shown = np.array(rows["greedy"]) > 1e-3
                    below.plot(np.arange(1, size + 1)[shown], ratio[shown], **LINE_STYLES[name])
        panels[0, 0].set_ylabel("relative error")
        panels[1, 0].set_ylabel("error ÷ greedy's")
        panels[0, 0].legend(frameon=False, fontsize=8)


def plot_growth(record: Mapping[str, Any], path: Path) -> None:
    """Plot time against width, time against images, and memory against images."""
    colours = {"least squares": "#0072b2", "average": "#009e73", "line search": "#d55e00"}
    images = [row["images"] for row in record["images"]]
    with figure_of(path, (9.6, 3.2)) as figure:
        by_width, by_images, memory = figure.subplots(1, 3)
        for name, points in record["widths"].items():
            by_width.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, color=colours[name])
        _log_axes(by_width, "units N of a site", "seconds for its path")
        for name, key, colour in (("moments", "survey s", "#0072b2"), ("forward pass", "forward s", "#000000")):
            seconds = [row[key] for row in record["images"]]
            by_images.plot(images, seconds, marker="o", markersize=4, label=name, color=colour)
        _log_axes(by_images, "images", "seconds")
        memory.plot(images, [row["MB"] for row in record["images"]], marker="o", markersize=4, color="#0072b2")
        memory.set(xscale="log", xlabel="images", ylabel="MB beyond a forward pass", ylim=0)
        memory.xaxis.set_minor_locator(NullLocator())


def _log_axes(axes: Axes, x: str, y: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False)


@contextmanager
def figure_of(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Make a figure in the common style and write it as compact SVG; equal input gives equal bytes."""
    style: dict[Any, Any] = {
        **{"svg.hashsalt": "scionet", "svg.fonttype": "none", "font.size": 9, "font.family": "DejaVu Sans"},
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9},
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        yield figure
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    one_line_per_path = re.sub(r" \n(?=[A-Za-z])", " ", stream.getvalue())
    write_text(path, re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", one_line_per_path))
