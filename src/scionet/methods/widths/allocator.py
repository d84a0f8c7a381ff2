"""Allocator: the width of each site, by one density for all, error curves, sensitivities or scores."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from scionet.budget.allocation.allocate import uniform
from scionet.budget.allocation.curves import by_curves
from scionet.budget.allocation.explicit import explicit
from scionet.budget.allocation.ladder import NO_MAXIMUM
from scionet.budget.allocation.ranked import by_scores
from scionet.budget.budget import Budget
from scionet.choices.widths import ErrorCurves, Isomorphic, Sensitivity, Uniform, Widths
from scionet.methods.contract import SiteView
from scionet.methods.method_run import MethodRun
from scionet.methods.refit.survey import survey
from scionet.methods.walk import AllocatedWidths
from scionet.methods.widths.isomorphic import alike
from scionet.methods.widths.output_distance import OutputDistance
from scionet.methods.widths.sensitivity import measured_widths, sensitivity_curve
from scionet.network.passes.moments import Moments
from scionet.selection.greedy import Selection, shortened
from scionet.typing import FloatArray


@dataclass(frozen=True, eq=False)
class Curves:
    """The measurements that the division of a budget is based on.

    Attributes:
        damage: For each site, the error or the predicted distance of the output at each width, ``(N + 1,)``.
        paths: Full paths of sites that are decided before the walk, if all selections are beginnings of one path.
        distance: The measure of sensitivities, if these were measured.
    """

    damage: Mapping[str, FloatArray]
    paths: Mapping[str, Selection]
    distance: OutputDistance | None = None


@dataclass(frozen=True, eq=False)
class Allocator:
    """Divides budgets among the sites of a network. Measurements are made once for all budgets.

    Attributes:
        run: The method at work.
    """

    run: MethodRun

    def widths(
        self,
        budget: Budget | None,
        max_units: Mapping[str, int] = NO_MAXIMUM,
        factors: Mapping[str, float] | None = None,
    ) -> AllocatedWidths:
        """Return the widths of all sites under a budget; without one, the given widths, or the full ones.

        Args:
            budget: The budget.
            max_units: The most units of sites that cannot use all of their share.
            factors: Factor on the damage of each site; 1 by default.
        """
        limits, costs = self.run.settings.limits, self.run.problem.costs
        bounds = {"round_to": limits.round_to, "min_units": limits.min_units}
        rule = self.run.settings.widths
        if budget is None:
            return AllocatedWidths(explicit(costs, rule.units if isinstance(rule, Widths) else {}, **bounds))
        if isinstance(rule, Uniform):
            return AllocatedWidths(uniform(costs, budget, max_units=max_units, **bounds))
        if isinstance(rule, Isomorphic):
            groups = alike(self.run.network.model, self.run.sites)
            return AllocatedWidths(by_scores(costs, budget, self.scores, groups, max_units=max_units, **bounds))
        damage = {name: curve * (factors or {}).get(name, 1.0) for name, curve in self.curves.damage.items()}
        kept = by_curves(costs, budget, damage, max_units=max_units, **bounds)
        return AllocatedWidths(kept, self.curves.paths, self._predicted(kept))

    def _predicted(self, kept: Mapping[str, int]) -> tuple[float, OutputDistance] | None:
        """The distance of the output that the sensitivities predict for these widths."""
        if self.curves.distance is None:
            return None
        return float(sum(self.curves.damage[name][count] for name, count in kept.items())), self.curves.distance

    @cached_property
    def curves(self) -> Curves:
        """The damage at each width: error curves or sensitivities."""
        paths: dict[str, Selection] = {}
        rule = self.run.settings.widths
        if isinstance(rule, ErrorCurves):
            return Curves(self._error_curves(paths), paths)
        if not isinstance(rule, Sensitivity):
            raise AssertionError("other widths have no curves")
        distance = self.run.distance_on(self.run.judged.inputs)
        return Curves(self._sensitivities(rule, distance, paths), paths, distance)

    @cached_property
    def scores(self) -> dict[str, FloatArray]:
        """The score of each unit in the dense network, ``(width,)`` by site."""
        run = self.run
        if run.ranker.uses_moments:
            views = (view for view, _ in survey(run, run.surveyed, run.sites))
        else:
            views = (SiteView(site, run.network, run.calibration) for site in run.sites.values())
        return {v.site.name: run.ranker.scores(v, run.generators("rank", v.site.name)) for v in views}

    def _error_curves(self, paths: dict[str, Selection]) -> dict[str, FloatArray]:
        """Per site the relative error at its consumers for each number of kept units, 0 to N; fills `paths`."""
        return {view.site.name: error_curve(path, view.site.width) for view, _, path in self._paths(paths)}

    def _sensitivities(
        self, rule: Sensitivity, distance: OutputDistance, paths: dict[str, Selection]
    ) -> dict[str, FloatArray]:
        """Per site the predicted distance of the output for each number of kept units, 0 to N; fills `paths`."""
        errors: dict[str, FloatArray] = {}
        measured: dict[str, tuple[int, ...]] = {}
        changes: list[Mapping[str, Tensor]] = []
        for view, moments, path in self._paths(paths):
            name = view.site.name
            errors[name] = error_curve(path, view.site.width)
            measured[name] = measured_widths(errors[name], rule.widths_per_site)
            changes += [self._pruned_alone(view, moments, path, width) for width in measured[name]]
        found = iter(distance.of_each(changes, self.run.progress))
        return {
            name: sensitivity_curve(errors[name], widths, [float(next(found)) for _ in widths])
            for name, widths in measured.items()
        }

    def _paths(self, paths: dict[str, Selection]) -> Iterator[tuple[SiteView, Mapping[str, Moments], Selection]]:
        """Iterate over the sites in the dense network, with the full path of each."""
        for view, moments in survey(self.run, self.run.surveyed, self.run.sites):
            path = self._rank(view, view.site.width)
            if self.run.ranker.nested and not self.run.fitting.waits(view.site):
                paths[view.site.name] = path
            yield view, moments, path

    def _rank(self, view: SiteView, n_units: int) -> Selection:
        return self.run.ranker.rank(view, n_units, self.run.generators("rank", view.site.name))

    def _pruned_alone(
        self, view: SiteView, moments: Mapping[str, Moments], path: Selection, n_units: int
    ) -> Mapping[str, Tensor]:
        """Tensors of the dense network in which one site alone keeps `n_units` units, its consumers refitted."""
        selection = shortened(path, n_units) if self.run.ranker.nested else self._rank(view, n_units)
        return self.run.fitting.repaired_by(view.site, moments)(selection, {}, {})


def error_curve(path: Selection, width: int) -> FloatArray:
    """Smallest relative error with at most 0 .. N units, shape ``(N + 1,)``."""
    curve = np.full(width + 1, np.inf)
    seen: set[int] = set()
    for unit, value in zip(path.order, path.values, strict=True):
        seen.add(unit)
        curve[len(seen)] = min(curve[len(seen)], -value)
    return np.minimum.accumulate(curve)
