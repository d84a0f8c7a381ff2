"""What a report says of the change of the outputs: predicted and measured, and warnings where they mislead."""

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from scionet.methods.widths.output_distance import OutputDistance
from scionet.network.named_outputs import shown
from scionet.network.phrases import counted

_FAR = 10.0
"""Predicted and measured distances that differ by this factor are worth a warning."""
_UNEVEN = 4.0
"""An error this many times that of the other outputs is worth a warning."""
_LISTED = 8
"""Outputs whose errors are listed, at most."""
_NEGLIGIBLE_DISTANCE = 1e-3
"""Distances below this differ by orders of magnitude without consequence."""
_NEGLIGIBLE_ERROR = 0.05
"""A squared error below this share of an output's variance is no cause for a warning."""


def verdict(
    predicted: float | None,
    distance: OutputDistance,
    walked: Mapping[str, Tensor],
    repaired: Mapping[str, Tensor] | None,
    held_out: bool,
) -> Iterator[str]:
    """Sentences for a plan's status.

    Args:
        predicted: The distance that the sensitivities predict, if they were measured.
        distance: The measure, on the examples of the sensitivities.
        walked: Tensors of the masked network after the walk.
        repaired: Its tensors after the repair steps that follow the walk; None if there are none.
        held_out: Whether nothing was fitted on these examples.
    """
    measured, errors = distance.with_errors(walked)
    examples = f"{counted(round(distance.n_examples), 'held-out example' if held_out else 'example')}"
    before = "" if predicted is None else f"predicted {predicted:.3g}, "
    text = f"change of the output on {examples}: {before}measured {measured:.3g}"
    after = ""
    if repaired is not None:
        found, errors = distance.with_errors(repaired)
        after = f", after the repair {found:.3g}"
    yield f"{text}{after} {distance.unit_name} ({distance.described})"
    if not held_out:
        yield "the weights were fitted on these examples, since there are too few to hold any out"
    least, most = sorted([measured if predicted is None else predicted, measured])
    if most > max(_FAR * least, _NEGLIGIBLE_DISTANCE):
        yield (
            "warning: predicted and measured change differ by an order of magnitude, so the widths rest on a poor "
            "prediction; try Sensitivity(search=...) or (widths_per_site=2), or give more calibration examples"
        )
    yield from _each(errors)
    yield from _uneven(errors)


def _each(errors: Mapping[str, float]) -> Iterator[str]:
    """The error of each of several outputs, the largest first."""
    if len(errors) > 1:
        ordered = sorted(errors.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{shown(name)} {error:.3g}" for name, error in ordered[:_LISTED])
        more = f" and {len(errors) - _LISTED} more" if len(errors) > _LISTED else ""
        yield f"squared error of each output, relative to its variance: {listed}{more}"


def _uneven(errors: Mapping[str, float]) -> Iterator[str]:
    """A warning for each output whose error is far larger than that of the others."""
    for name, error in errors.items():
        others = [other for key, other in errors.items() if key != name]
        if others and error > max(_UNEVEN * float(np.median(others)), _NEGLIGIBLE_ERROR):
            yield (
                f"warning: the output {shown(name)} changes far more than the others: its squared error is "
                f"{error:.3g} of its variance, theirs {float(np.median(others)):.3g} (median)"
            )
