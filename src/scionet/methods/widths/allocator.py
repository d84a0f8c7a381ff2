"""Allocator: the width of each site, by one density for all, error curves, sensitivities or scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from scionet.budget.allocation.allocate import uniform
from scionet.budget.allocation.curves import by_curves
from scionet.budget.allocation.explicit import explicit, whole
from scionet.budget.allocation.ladder import NO_MAXIMUM
from scionet.budget.allocation.ranked import by_scores
from scionet.budget.budget import Budget
from scionet.choices.widths import Global, Isomorphic, Uniform, Whole, Widths
from scionet.methods.contract import SiteView
from scionet.methods.method_run import MethodRun
from scionet.methods.refit.survey import survey
from scionet.methods.walk import AllocatedWidths
from scionet.methods.widths.damage_curves import DamageCurves
from scionet.methods.widths.isomorphic import alike
from scionet.methods.widths.output_distance import OutputDistance
from scionet.typing import FloatArray


@dataclass(frozen=True, eq=False)
class Allocator:
    """Divides budgets among the sites of a network.

    Attributes:
        run: The method at work.
        curves: The damage at each width, measured once for all budgets; None for widths that need no curves.
        damage: The damage by branches that were dropped before.
        notes: Sentences for the plan's status.
    """

    run: MethodRun
    curves: DamageCurves | None
    damage: float = 0.0
    notes: tuple[str, ...] = ()

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
            kept = explicit(costs, rule.units if isinstance(rule, Widths) else {}, **bounds)
        elif isinstance(rule, Whole):
            kept = whole(costs, budget)
        elif isinstance(rule, Uniform):
            kept = uniform(costs, budget, max_units=max_units, **bounds)
        elif isinstance(rule, Global | Isomorphic):
            model, sites = self.run.network.model, self.run.sites
            groups = [[*sites]] if isinstance(rule, Global) else alike(model, sites)
            kept = by_scores(costs, budget, self.scores, groups, max_units=max_units, **bounds)
        else:
            assert self.curves is not None, "all other widths follow curves"
            damage = {name: curve * (factors or {}).get(name, 1.0) for name, curve in self.curves.damage.items()}
            kept = by_curves(costs, budget, damage, max_units=max_units, **bounds)
            return AllocatedWidths(kept, self.curves.paths, self._predicted(self.curves, kept), self.notes)
        return AllocatedWidths(kept, notes=self.notes)

    def _predicted(self, curves: DamageCurves, kept: Mapping[str, int]) -> tuple[float, OutputDistance] | None:
        """The distance of the output that the sensitivities predict for these widths."""
        if curves.distance is None:
            return None
        return self.damage + float(sum(curves.damage[name][count] for name, count in kept.items())), curves.distance

    @cached_property
    def scores(self) -> dict[str, FloatArray]:
        """The score of each unit in the dense network, ``(width,)`` by site."""
        run = self.run
        if run.ranker.uses_moments:
            views = (view for view, _ in survey(run, run.surveyed, run.sites))
        else:
            views = (SiteView(site, run.network, run.calibration) for site in run.sites.values())
        return {v.site.name: run.ranker.scores(v, run.generator_of(v.site)) for v in views}
