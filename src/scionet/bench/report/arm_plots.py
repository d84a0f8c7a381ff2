"""The part of a report about arms: a panel for each arm, paired differences, and the costs from the ledgers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scionet.bench.experiment.arms import ARMS
from scionet.bench.records.ledger import STAGES, total
from scionet.bench.records.record import RunRecord
from scionet.bench.report.pairs import Pair, pairs
from scionet.bench.report.plots import Style, swatch
from scionet.bench.report.study import Study, base
from scionet.bench.report.summary import Measured, Row, Spread
from scionet.bench.report.svg import INK, MARKERS, PALETTE, drawing, render
from scionet.extras import extra

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

CONTINUED = "dense continued"
SINGLE = "single weights"
"""The panel of all arms of single weights; each arm has its own line."""
_PANELS_ACROSS = 3
_PANEL = (3.4, 2.9)
_WIDE_PANEL = (5.2, 3.9)
_AXES = {
    "macs": "MACs kept, % of dense",
    "params": "parameters kept, % of dense",
    "latency": "measured latency kept, % of dense",
}


@dataclass(frozen=True)
class Account:
    """The mean cost of the runs of one row.

    Attributes:
        row: The runs.
        seconds: Seconds of each stage in `STAGES`.
        passes: Multiply-accumulate operations of all stages, in forward passes of the dense network on 1,000 examples.
        images: Examples that went through a network, in all stages.
        rates: The learning rates that were chosen.
    """

    row: Row
    seconds: tuple[float, ...]
    passes: float
    images: float
    rates: tuple[float, ...]


@dataclass(frozen=True)
class ArmPlots:
    """The content of a page about arms.

    Attributes:
        figures: Name and SVG of the panels for each cost, with latency if it was measured. Arms of single weights have
            a panel of parameters only, because they need as many MACs as the dense network.
        legend: Swatch and name of each competitor.
        pairs: The headline method compared with every other one, for each budget.
        accounts: The costs of each row, for each budget.
        stages: Names of the stages, in the order of `Account.seconds`.
    """

    figures: tuple[tuple[str, str], ...]
    legend: tuple[tuple[str, str], ...]
    pairs: tuple[tuple[str, tuple[Pair, ...]], ...]
    accounts: tuple[tuple[str, tuple[Account, ...]], ...]
    stages: tuple[str, ...] = STAGES

    @property
    def timed(self) -> bool:
        """Whether latency was measured."""
        return _AXES["latency"] in dict(self.figures)

    @property
    def single(self) -> bool:
        """Whether there are arms of single weights."""
        return SINGLE in dict(self.figures)


def arm_of(row: Row) -> str:
    """The arm of the runs of a row; empty if they have none."""
    return str(row.records[0].spec.settings.get("arm", ""))


def competitor_of(row: Row) -> str:
    """The competitor that chose the architecture of a row; for single weights, with the arm."""
    arm = arm_of(row)
    if panel_of(row) == SINGLE:
        return row.method
    who, kind = row.method.removesuffix(arm).removesuffix(" + ").strip(), arm.removesuffix(panel_of(row)).strip()
    return f"{who}, guided" if kind == "guided" else who or kind or arm


def panel_of(row: Row) -> str:
    """The panel of a row: its arm without the name of the architecture."""
    arm = arm_of(row)
    if arm in ARMS and ARMS[arm].masked:
        return SINGLE
    return next((name for name in ("scratch-e", "scratch-b") if arm.endswith(name)), arm)


def protocol(study: Study, name: str) -> ArmPlots | None:
    """Make the part of a page about the arms of a study; None if its runs have no arm.

    Args:
        study: The rows.
        name: Prefix of all ids.
    """
    if not any(arm_of(row) for row in study.rows):
        return None
    line_styles = _line_styles(study)
    beside = pairs([record for row in study.rows for record in row.records], study.headline)
    return ArmPlots(
        tuple(_figures(study, line_styles, name)),
        tuple((swatch(style, f"{name}l{i}"), who) for i, (who, style) in enumerate(line_styles.items())),
        tuple((b, own) for b in study.budgets if (own := tuple(p for p in beside if p.budget == b))),
        tuple((b, tuple(_account(row) for row in study.at(b))) for b in study.budgets),
    )


def _account(row: Row) -> Account:
    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    each = row.records
    return Account(
        row,
        tuple(mean([total(record.ledger, stage)[2] for record in each]) for stage in STAGES),
        mean([total(record.ledger)[1] / record.dense.macs / 1e3 for record in each]),
        mean([total(record.ledger)[0] for record in each]),
        tuple(sorted({_chosen(record) for record in each if record.sweep})),
    )


def _chosen(record: RunRecord) -> float:
    """The learning rate of the evaluated network: the smallest of those with the best validation accuracy."""
    return max(record.sweep, key=lambda tried: (tried.correct, -tried.learning_rate)).learning_rate


def _line_styles(study: Study) -> dict[str, Style]:
    """The line style of each competitor, with the headline method first."""
    rows = sorted(
        (row for row in study.rows if arm_of(row) != CONTINUED),
        key=lambda row: base(row.method) != base(study.headline),
    )
    names = list(dict.fromkeys(map(competitor_of, rows)))
    return {
        name: Style(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], solid=True, strong=i == 0)
        for i, name in enumerate(names)
    }


def _figures(study: Study, line_styles: dict[str, Style], name: str) -> Iterator[tuple[str, str]]:
    """The name and the SVG of each figure."""
    for cost, text in _AXES.items():
        found = {panel_of(row) for row in study.rows if getattr(row, cost) is not None}
        if arms := [arm for arm in ARMS if arm in found - {CONTINUED}]:
            yield text, _panels(study, arms, cost, line_styles, f"{name}{cost}")
    if any(panel_of(row) == SINGLE for row in study.rows):
        yield SINGLE, _single_panel(study, line_styles, f"{name}weights")


def _single_panel(study: Study, line_styles: dict[str, Style], name: str) -> str:
    """Accuracy against parameters kept. The axis is logarithmic, because every round keeps a fraction of the rest."""
    rows = [row for row in study.rows if panel_of(row) == SINGLE]
    with drawing():
        figure = Figure(figsize=_WIDE_PANEL)
        axes = figure.subplots()
        _panel(axes, rows, "params", line_styles)
        _dense_lines(axes, study)
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.xaxis.set_major_locator(FixedLocator(sorted({row.params.mean for row in rows})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.set(title=SINGLE, xlabel=f"{_AXES['params']}, logarithmic", ylabel="accuracy, %")
        title = f"Accuracy against {_AXES['params']}, of networks with single weights held at zero"
        return render(figure, name, title, _reading(study, [SINGLE]))


def _panels(study: Study, arms: Sequence[str], cost: str, line_styles: dict[str, Style], name: str) -> str:
    """Accuracy against a cost, with a panel for each arm and equal axes."""
    across = min(len(arms), _PANELS_ACROSS)
    down = -(-len(arms) // across)
    with drawing():
        figure = Figure(figsize=(_PANEL[0] * across, _PANEL[1] * down))
        grid = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
        for axes, arm in zip(grid, arms, strict=False):
            _panel(axes, [row for row in study.rows if panel_of(row) == arm], cost, line_styles)
            _dense_lines(axes, study)
            axes.set_title(arm)
        for axes in grid[len(arms) :]:
            axes.set_visible(False)
        first = figure.axes[0]
        first.invert_xaxis()
        first.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.supxlabel(_AXES[cost], fontsize=9.5)
        figure.supylabel("accuracy, %", fontsize=9.5)
        return render(figure, name, f"Accuracy against {_AXES[cost]}, a panel for each arm", _reading(study, arms))


def _panel(axes: Axes, rows: Sequence[Row], cost: str, line_styles: dict[str, Style]) -> None:
    for who, style in line_styles.items():
        own = [row for row in rows if competitor_of(row) == who and getattr(row, cost) is not None]
        if own:
            costs: list[Spread | Measured] = [getattr(row, cost) for row in own]
            across, up = [share.mean for share in costs], [row.accuracy.mean for row in own]
            axes.plot(across, up, clip_on=False, **style.line)
            reach = [row.accuracy.deviation or 0 for row in own]
            bars = {"fmt": "none", "ecolor": style.colour, "elinewidth": 1, "capsize": 2, "zorder": 2}
            axes.errorbar(across, up, yerr=reach, xerr=_ends(costs), **bars)


def _ends(costs: Sequence[Spread | Measured]) -> list[list[float]] | None:
    """The error bars of measured costs to the left and to the right; None for counted costs."""
    measured = [share for share in costs if isinstance(share, Measured)]
    if not measured:
        return None
    return [[share.mean - share.low for share in measured], [share.high - share.mean for share in measured]]


def _dense_lines(axes: Axes, study: Study) -> None:
    """Lines for the dense network (dotted) and for the dense network after the same fine-tuning (dashed)."""
    axes.axhline(study.dense.accuracy.mean, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    for row in study.path(CONTINUED):
        axes.axhline(row.accuracy.mean, color=INK, linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)


def _reading(study: Study, arms: Sequence[str]) -> str:
    """Describe the best result of each arm at the budget in focus."""
    parts = [f"The dense network has {study.dense.accuracy.text(study.dense.digits)} %."]
    for arm in arms:
        rows = [row for row in study.at(study.focus) if panel_of(row) == arm]
        if rows:
            best = max(rows, key=lambda row: row.accuracy.mean)
            parts.append(f"{arm}: best {competitor_of(best)} with {best.accuracy.text(best.digits)} %.")
    return " ".join(parts)
