"""Figures of single methods: widths and error curves by site, and latency."""

from collections.abc import Mapping, Sequence

import numpy as np

from scionet.bench.records.record import SiteRecord
from scionet.bench.report.plots import styles
from scionet.bench.report.study import Study, spoken
from scionet.bench.report.summary import Row
from scionet.bench.report.svg import ACCENT, INK, MUTED, RULE, drawing, render
from scionet.budget.latency.durations import Latency
from scionet.escaping import printable
from scionet.extras import extra

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator


def shades(count: int) -> tuple[float, ...]:
    """Opacities that distinguish budgets, from the widest to the narrowest."""
    return tuple(float(a) for a in np.linspace(0.25, 1.0, count)) if count > 1 else (1.0,)


def widths_plot(study: Study, method: str, name: str) -> str:
    """Units before and after by site; the budgets of one method (first seed) overlap in one bar.

    A site that is missing from a record is whole. The figure is empty if no record of the method has sites.
    """
    columns = [row.records[0].sites for row in study.path(method)]
    dense = {site.name: site.width for sites in columns for site in sites}
    if not dense:
        return ""
    kept = [dense | {site.name: site.kept for site in sites} for sites in columns]
    with drawing():
        figure, axes = _bar_figure(list(dense), 0.25, 1.3 * max(dense.values()))
        axes.barh(range(len(dense)), list(dense.values()), height=0.66, color=RULE, linewidth=0)
        for widths, alpha in zip(kept, shades(len(kept)), strict=True):
            axes.barh(range(len(dense)), list(widths.values()), height=0.66, color=ACCENT, alpha=alpha, linewidth=0)
        for place, (site, width) in enumerate(dense.items()):
            _label(axes, (width, place), f"{width} → " + " · ".join(str(widths[site]) for widths in kept))
        return render(figure, name, f"Units kept by site: {method}", _widths_reading(study.path(method)))


def curve_plots(study: Study, prefix: str) -> tuple[tuple[str, str], ...]:
    """The name of each site and a small plot of relative error against the percentage of units kept.

    The plots show every method with curves in its record (budget in focus, first seed). `prefix` starts all ids.
    """
    methods = {row.method: row.records[0].sites for row in study.at(study.focus)}
    sites = {m: {site.name: site for site in found if site.curve} for m, found in methods.items()}
    names = list(dict.fromkeys(name for found in sites.values() for name in found))
    limits = _limits([site for found in sites.values() for site in found.values()])
    panels = {name: {m: found[name] for m, found in sites.items() if name in found} for name in names}
    return tuple(
        (name, _curve_plot(study, panel, limits, f"{prefix}{i}")) for i, (name, panel) in enumerate(panels.items())
    )


def _limits(sites: Sequence[SiteRecord]) -> tuple[float, float]:
    """Common limits of the error axes, at most four decades apart."""
    errors = [error for site in sites for _, error in site.curve if error > 0] or [1.0]
    return max(min(errors), 1e-4 * max(errors)) / 1.5, max(errors) * 1.5


def latency_plot(study: Study, name: str) -> str:
    """Median time of a forward pass with its interval, dense and at each budget of the headline; empty if not timed."""
    timed = [row for row in study.path(study.headline) if row.speedup]
    dense = timed[0].records[0].dense.latency if timed else None
    bars = [("dense", dense), *((spoken(row.budget), row.records[0].pruned.latency) for row in timed)]
    measured = [(label, latency) for label, latency in bars if latency]
    if not measured:
        return ""
    with drawing():
        right = 1.4 * max(latency.upper_ms for _, latency in measured)
        figure, axes = _bar_figure([label for label, _ in measured], 0.42, right)
        for place, (label, latency) in enumerate(measured):
            _latency_bar(axes, place, latency, RULE if label == "dense" else ACCENT)
        reading = "; ".join(f"{label}: median {latency.median_ms:.3g} ms" for label, latency in measured)
        return render(figure, name, "Latency of one forward pass", reading)


def _curve_plot(study: Study, sites: Mapping[str, SiteRecord], limits: tuple[float, float], name: str) -> str:
    line_styles = styles(study)
    with drawing():
        figure = Figure(figsize=(2.1, 1.35))
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.25, 0.14, 0.7, 0.8))
        for method, site in reversed(list(sites.items())):
            units, errors = zip(*site.curve, strict=True)
            line = {**line_styles[method].line, "marker": "", "linewidth": 2 if line_styles[method].strong else 0.9}
            axes.plot(100 * np.array(units) / site.width, errors, **line)
        if study.headline in sites:
            _mark_kept(axes, study, sites[study.headline])
        axes.set(yscale="log", xlim=(0, 100), ylim=limits, xticks=[0, 50, 100])
        axes.yaxis.set_major_locator(LogLocator(numticks=4))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        site = next(iter(sites.values()))
        return render(figure, name, f"Relative error by percentage of units kept: {site.name}")


def _mark_kept(axes: Axes, study: Study, site: SiteRecord) -> None:
    """Mark the kept units of each budget on the curve of the headline method."""
    units, errors = zip(*site.curve, strict=True)
    sites = [s for row in study.path(study.headline) for s in row.records[0].sites]
    kept = np.array([s.kept for s in sites if s.name == site.name])
    levels = np.exp(np.interp(kept, units, np.log(np.maximum(errors, 1e-12))))
    axes.plot(100 * kept / site.width, levels, "o", color=ACCENT, markersize=4.5, markeredgewidth=0, zorder=5)


def _latency_bar(axes: Axes, place: int, latency: Latency, colour: str) -> None:
    axes.barh(place, latency.median_ms, height=0.6, color=colour, linewidth=0)
    axes.plot([latency.lower_ms, latency.upper_ms], [place, place], color=INK, linewidth=1.4)
    _label(axes, (latency.upper_ms, place), f"{latency.median_ms:.3g} ms")


def _label(axes: Axes, place: tuple[float, float], text: str) -> None:
    axes.annotate(text, place, (6, 0), textcoords="offset points", va="center", color=MUTED, fontsize=9)


def _bar_figure(labels: Sequence[str], height: float, right: float) -> tuple[Figure, Axes]:
    """Empty axes for horizontal bars of a height in inches. The layout is manual: an automatic one takes seconds."""
    labels = [printable(label) for label in labels]
    size = 5.2, height * len(labels) + 0.15
    figure = Figure(figsize=size)
    figure.set_layout_engine("none")
    left = min(0.5, 0.085 * (1 + max(map(len, labels))) / size[0])
    axes = figure.add_axes((left, 0.02, 1 - left, 0.96))
    axes.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.45, -0.55), xlim=(0, right))
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.xaxis.set_major_locator(NullLocator())
    return figure, axes


def _widths_reading(path: Sequence[Row]) -> str:
    sites = {spoken(row.budget): row.records[0].sites for row in path}
    totals = {budget: (sum(s.kept for s in own), sum(s.width for s in own)) for budget, own in sites.items()}
    return " ".join(f"{budget}: {kept} of {width} units stay." for budget, (kept, width) in totals.items())
