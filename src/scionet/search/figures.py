"""Figures of a search: probabilities over epochs, and expected MACs against the target."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scionet.errors import InvalidSetting
from scionet.extras import extra
from scionet.search.space import SearchSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Trace = Sequence[Mapping[str, Any]]
_ACROSS = 5
_PANEL = (2.3, 1.6)


def draw_probabilities(space: SearchSpace, trace: Trace) -> "Figure":
    """One panel for every width and depth that is searched: the probabilities of its choices, over the epochs.

    Args:
        space: The search space.
        trace: `SearchResult.trace`.

    Raises:
        InvalidSetting: If the trace is empty.
        MissingExtra: If matplotlib is not installed.
    """
    panels = [*_panels(space, trace)]
    rows = -(-len(panels) // _ACROSS)
    with _figure((_PANEL[0] * _ACROSS, _PANEL[1] * rows + 0.4)) as figure:
        axes = figure.subplots(rows, _ACROSS, sharex=True, sharey=True, squeeze=False).ravel()
        epochs = _epochs(trace)
        for axis, (title, choices, series) in zip(axes, panels, strict=False):
            axis.stackplot(epochs, *zip(*series, strict=True), labels=[str(each) for each in choices])
            axis.set(title=title, ylim=(0, 1), xlim=_range(epochs))
            axis.title.set_fontsize(8)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        figure.supxlabel("epoch")
        figure.supylabel("probability, smallest choice at the bottom")
        return figure


def draw_macs(trace: Trace, full_macs: float, target_macs: float, below: float) -> "Figure":
    """Expected MACs and those of the most probable architecture over the epochs, with the target and the tolerance.

    Args:
        trace: `SearchResult.trace`.
        full_macs: MACs of the full network.
        target_macs: MACs that the budget allows.
        below: How far below it they may lie, as a fraction of the full network's.

    Raises:
        InvalidSetting: If the trace is empty.
        MissingExtra: If matplotlib is not installed.
    """
    epochs, target = _epochs(trace), 100 * target_macs / full_macs
    with _figure((5.2, 3.4)) as figure:
        axis = figure.subplots()
        axis.axhspan(target - 100 * below, target, alpha=0.2, color="tab:green", label="target and tolerance")
        for key, label in (("expected_macs", "expected"), ("macs", "most probable architecture")):
            axis.plot(epochs, [100 * row[key] / full_macs for row in trace], label=label)
        axis.set(xlabel="epoch", ylabel="MACs, % of the full network", xlim=_range(epochs))
        axis.legend(frameon=False)
        return figure


def write_figures(
    folder: str | Path, space: SearchSpace, trace: Trace, target_macs: float, below: float
) -> tuple[Path, Path]:
    """Write ``probabilities.svg`` and ``macs.svg`` to a folder, which is created.

    Args:
        folder: The folder.
        space: The search space.
        trace: `SearchResult.trace`.
        target_macs: MACs that the budget allows.
        below: How far below it they may lie, as a fraction of the full network's.

    Raises:
        InvalidSetting: If the trace is empty.
        MissingExtra: If matplotlib is not installed.
    """
    figures = (draw_probabilities(space, trace), draw_macs(trace, space.macs(space.full), target_macs, below))
    Path(folder).mkdir(parents=True, exist_ok=True)
    first, second = (Path(folder) / f"{name}.svg" for name in ("probabilities", "macs"))
    with _style():
        for path, figure in zip((first, second), figures, strict=True):
            figure.savefig(path, format="svg", metadata={"Date": None})
    return first, second


def _panels(space: SearchSpace, trace: Trace) -> Iterator[tuple[str, tuple[int, ...], list[list[float]]]]:
    """Title, choices and probabilities of every choice that is one."""
    count = len(space.layers)
    for number, choices in enumerate(space.choices):
        kind, place = ("widths", number) if number < count else ("depths", number - count)
        if len(choices) > 1:
            title = f"{'convolution' if kind == 'widths' else 'stage'} {place + 1}: {choices[0]} to {choices[-1]}"
            yield title, choices, [row[kind][place] for row in trace]


def _epochs(trace: Trace) -> list[int]:
    """Numbers of the epochs.

    Raises:
        InvalidSetting: If there are none, or they do not follow one another.
    """
    epochs = [row["epoch"] for row in trace]
    if not epochs or any(after != before + 1 for before, after in pairwise(epochs)):
        raise InvalidSetting("there is no trace to draw: the budget allowed the full network, and nothing was searched")
    return epochs


def _range(epochs: Sequence[int]) -> tuple[float, float]:
    return (epochs[0], epochs[-1]) if len(epochs) > 1 else (epochs[0] - 0.5, epochs[0] + 0.5)


@contextmanager
def _figure(size: tuple[float, float]) -> Iterator["Figure"]:
    """A new figure."""
    with extra("report"):
        from matplotlib.figure import Figure
    with _style():
        yield Figure(figsize=size, layout="constrained")


@contextmanager
def _style() -> Iterator[None]:
    """Figures have real text, and equal contents give equal bytes."""
    with extra("report"):
        import matplotlib
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scionet", "font.size": 9}):
        yield
