"""The page of an analysis of a valley."""

from collections.abc import Sequence

from scionet.commands.analyses.study_page import Grid, Line, Panel, Section
from scionet.commands.analyses.valley_record import Segment

LEVEL = 0.01
"""Cross-entropy in nats below which a rise of the loss is called none."""


def sections(segments: Sequence[Segment]) -> tuple[Section, ...]:
    """The only part: loss and accuracy along the segments."""
    columns = ("to", "loss there", "barrier", "rise", "accuracy there", "accuracy barrier")
    caption = (
        "Barrier: the largest height of the loss above the straight line between its ends. Rise: above the higher end. "
        "Accuracy barrier: the largest drop below the mean of the ends. The loss is in nats."
    )
    return (
        Section(
            "The loss along the segments",
            "Weights w(t) = (1 − t) w₀ + t w₁ between two networks, and the mean cross-entropy at each t. Networks in "
            "one valley have no barrier between them (Frankle et al., 2020).",
            (
                _panel("Loss along the segment", "cross-entropy in nats", segments, "losses"),
                _panel("Accuracy along the segment", "accuracy", segments, "accuracies"),
            ),
            Grid(columns, tuple(_row(each) for each in segments), caption),
            tuple(_reading(each) for each in segments),
            in_figure=2,
        ),
    )


def _panel(title: str, y: str, segments: Sequence[Segment], measure: str) -> Panel:
    lines = tuple(Line(each.name, each.valley.positions, getattr(each.valley, measure)) for each in segments)
    return Panel(title, "position t", y, lines, x_log=False, y_log=False)


def _row(segment: Segment) -> tuple[str, ...]:
    found = segment.valley
    losses = (f"{value:.4f}" for value in (found.losses[-1], found.barrier, found.rise))
    return (segment.name, *losses, f"{found.accuracies[-1]:.1%}", f"{found.accuracy_barrier:.1%}")


def _reading(segment: Segment) -> str:
    found = segment.valley
    if found.rise <= LEVEL:
        return (
            f"To {segment.name}: the loss rises nowhere more than {LEVEL} nats above its ends. Both lie in one valley."
        )
    place = found.positions[found.losses.index(max(found.losses))]
    return (
        f"To {segment.name}: a barrier. At t = {place:.2f} the loss is {found.rise:.3f} nats above its higher end, and "
        f"the accuracy falls to {min(found.accuracies):.1%}."
    )
