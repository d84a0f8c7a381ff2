"""Damage curves: how much each number of units at one site costs, measured in the dense network."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from scionet.choices.widths import ErrorCurves, Sensitivity
from scionet.methods.contract import SiteView
from scionet.methods.method_run import MethodRun
from scionet.methods.refit.survey import survey
from scionet.methods.widths.output_distance import OutputDistance
from scionet.methods.widths.sensitivity import measured_widths, sensitivity_curve
from scionet.network.passes.moments import Moments
from scionet.network.sites import Sites
from scionet.selection.greedy import Selection, shortened
from scionet.typing import FloatArray


@dataclass(frozen=True, eq=False)
class DamageCurves:
    """The measurements on which the division of a budget is based.

    Attributes:
        damage: For each site, the error or the predicted distance of the output at each width, ``(N + 1,)``.
        paths: Full paths of sites that are decided before the walk, if all selections are beginnings of one path.
        distance: The measure of sensitivities, if these were measured.
    """

    damage: Mapping[str, FloatArray]
    paths: Mapping[str, Selection]
    distance: OutputDistance | None = None

    def within(self, sites: Sites) -> "DamageCurves":
        """The curves of these sites, of a network without some branches. Paths were selected with all consumers."""
        if len(sites) == len(self.damage) and not sites.dropped:
            return self
        return replace(self, damage={name: self.damage[name] for name in sites}, paths={})


def measured_curves(run: MethodRun) -> DamageCurves | None:
    """Measure the damage at each width of each site. Returns None if the settings divide the budget without curves."""
    rule = run.settings.widths
    if not isinstance(rule, ErrorCurves | Sensitivity):
        return None
    distance = None
    if isinstance(rule, Sensitivity):
        distance = run.distance_on(run.judged.inputs)
    errors: dict[str, FloatArray] = {}
    paths: dict[str, Selection] = {}
    measured: dict[str, tuple[int, ...]] = {}
    changes: list[Mapping[str, Tensor]] = []
    for view, moments in survey(run, run.surveyed, run.sites):
        name, path = view.site.name, run.ranked(view, view.site.width)
        errors[name] = error_curve(path, view.site.width)
        if run.ranker.nested and not run.fitting.waits(view.site):
            paths[name] = path
        if isinstance(rule, Sensitivity):
            measured[name] = measured_widths(errors[name], rule.widths_per_site)
            changes += [_pruned_alone(run, view, moments, path, width) for width in measured[name]]
    if distance is None:
        return DamageCurves(errors, paths)
    distances = (float(each) for each in distance.of_each(changes, run.progress))
    return DamageCurves(_sensitivities(errors, measured, distances), paths, distance)


def _sensitivities(
    errors: Mapping[str, FloatArray], measured: Mapping[str, tuple[int, ...]], distances: Iterator[float]
) -> dict[str, FloatArray]:
    """Per site the predicted distance of the output at each width, from the distances at the measured widths."""
    return {
        name: sensitivity_curve(errors[name], widths, [next(distances) for _ in widths])
        for name, widths in measured.items()
    }


def _pruned_alone(
    run: MethodRun, view: SiteView, moments: Mapping[str, Moments], path: Selection, n_units: int
) -> Mapping[str, Tensor]:
    """Tensors of the dense network in which one site alone keeps `n_units` units, its consumers refitted."""
    selection = shortened(path, n_units) if run.ranker.nested else run.ranked(view, n_units)
    return run.fitting.repaired_by(view.site, moments)(selection, {}, {})


def error_curve(path: Selection, width: int) -> FloatArray:
    """Smallest relative error with at most 0 .. N units, shape ``(N + 1,)``."""
    curve = np.full(width + 1, np.inf)
    seen: set[int] = set()
    for unit, value in zip(path.order, path.values, strict=True):
        seen.add(unit)
        curve[len(seen)] = min(curve[len(seen)], -value)
    return np.minimum.accumulate(curve)
