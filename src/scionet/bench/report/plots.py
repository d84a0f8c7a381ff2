"""Figures of accuracy against cost, which compare methods. Each takes a study and returns an inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scionet.bench.report.study import Study, base, spoken
from scionet.bench.report.summary import Row, Spread
from scionet.bench.report.svg import INK, MARKERS, PALETTE, PAPER, drawing, render
from scionet.extras import extra

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

SIZE = (5.2, 3.9)
"""Width and height in inches of each of the two adjacent panels."""


@dataclass(frozen=True)
class Style:
    """The line style of a method. A family shares colour and marker; its basic method is hollow and dashed.

    Attributes:
        colour: Colour of lines and markers.
        marker: Shape of markers.
        solid: Filled markers and a solid line; else hollow and dashed.
        strong: Whether it is the headline.
    """

    colour: str
    marker: str
    solid: bool
    strong: bool

    @property
    def line(self) -> dict[str, Any]:
        """Keywords for `Axes.plot`."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": 7 if self.strong else 5.5,
            "markerfacecolor": self.colour if self.solid else PAPER,
            "markeredgecolor": PAPER if self.solid else self.colour,
            "markeredgewidth": 0.7 if self.solid else 1.2,
            "linestyle": "-" if self.solid else (0, (3, 2)),
            "linewidth": 2.4 if self.strong else 1.1,
            "zorder": 4 if self.strong else 3,
        }


def styles(study: Study) -> dict[str, Style]:
    """A style for each method of a study, in the order of its methods."""
    families = list(dict.fromkeys(base(method) for method in study.methods))
    extended = {base(method) for method in study.methods if method != base(method)}

    def style(method: str) -> Style:
        place = families.index(base(method))
        colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
        return Style(colour, marker, solid=method not in extended, strong=method == study.headline)

    return {method: style(method) for method in study.methods}


def swatch(style: Style, name: str) -> str:
    """The line and marker of a legend entry. It is hidden from screen readers, which read the text beside it."""
    with drawing():
        figure = Figure(figsize=(0.36, 0.16))
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **style.line)
        axes.set(xlim=(0, 2), ylim=(-1, 1))
        return render(figure, name)


def accuracy_plot(study: Study, name: str) -> str:
    """Accuracy against MACs kept for all methods, with the dense network as a dotted line."""
    with drawing():
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        for method, style in reversed(styles(study).items()):
            path = study.path(method)
            _plot_path(axes, path, [row.accuracy for row in path], style)
        _dense_line(axes, study, study.dense.accuracy.mean)
        axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
        axes.set_title("Accuracy, %")
        _macs_axis(axes, study)
        return render(figure, name, "Accuracy against MACs kept", _reading(study))


def drop_plot(study: Study, name: str) -> str:
    """Points lost against MACs kept, on an axis that is logarithmic, and linear near zero, to separate good methods."""
    with drawing():
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        for method, style in reversed(styles(study).items()):
            path = study.path(method)
            _plot_path(axes, path, [row.drop for row in path if row.drop], style)
        _drop_axis(axes, study)
        _dense_line(axes, study, 0.0)
        axes.set_title("Points lost, logarithmic")
        _macs_axis(axes, study)
        return render(figure, name, "Accuracy points lost against MACs kept, on a logarithmic axis", _reading(study))


def _plot_path(axes: Axes, path: Sequence[Row], spreads: Sequence[Spread], style: Style) -> None:
    macs, means = [row.macs.mean for row in path], [spread.mean for spread in spreads]
    axes.plot(macs, means, clip_on=False, **style.line)
    several = [(x, s.mean, s.deviation) for x, s in zip(macs, spreads, strict=True) if s.deviation]
    if several:
        x, y, deviations = zip(*several, strict=True)
        axes.errorbar(x, y, yerr=deviations, fmt="none", ecolor=style.colour, elinewidth=1, capsize=2, zorder=2)


def _dense_line(axes: Axes, study: Study, level: float) -> None:
    axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), zorder=2)
    text = f"dense {study.dense.accuracy.text(study.dense.digits)} %"
    axes.annotate(text, (1, level), (0, 4), axes.get_yaxis_transform(), "offset points", ha="right", fontsize=9)


def _macs_axis(axes: Axes, study: Study) -> None:
    """Put the full cost on the left, so that pruning goes from left to right."""
    macs = [row.macs.mean for row in study.rows]
    margin = 0.08 * (max(macs) - min(macs)) or 5
    axes.set_xlim(max(macs) + margin, min(macs) - margin)
    axes.set_xlabel("MACs kept, % of dense")
    axes.grid(visible=False, axis="x")
    axes.spines["left"].set_visible(False)


def _drop_axis(axes: Axes, study: Study) -> None:
    """Use an inverted symmetric-logarithmic axis."""
    near = study.threshold
    lost = [row.drop.mean for row in study.rows if row.drop]
    least = min(row.drop.mean - (row.drop.deviation or 0) for row in study.rows if row.drop)
    steps = [s for s in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if near <= 1.05 * s <= 1.6 * max(*lost, near)]
    ticks = [*(-s for s in steps if -s >= 1.6 * least), 0, *steps]
    axes.set_yscale("symlog", linthresh=near, linscale=0.6)
    axes.set_ylim(max(*lost, near) * 1.35, min(1.35 * least, -0.45 * near))
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _reading(study: Study) -> str:
    """Describe the best and the worst method of each budget."""
    dense = f"The dense network has {study.dense.accuracy.text(study.dense.digits)} %."
    parts = [dense]
    for budget in study.budgets:
        best, *_, worst = (*study.at(budget), study.at(budget)[-1])
        parts.append(
            f"At {spoken(budget)}: best {best.method} with {best.accuracy.text(best.digits)} %, "
            f"last {worst.method} with {worst.accuracy.text(worst.digits)} %."
        )
    return " ".join(parts)
