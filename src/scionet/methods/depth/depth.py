"""Which branches are dropped: given ones, or as many as let the predicted change of the output be least."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from torch import Tensor

from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.choices.depth import BranchScores, DepthRule, DropBranches
from scionet.choices.settings import Settings
from scionet.choices.widths import Sensitivity, Whole
from scionet.errors import InvalidSetting, UnreachableBudget
from scionet.methods.depth.constants import branch_means
from scionet.methods.depth.measures import measure_for
from scionet.methods.depth.orders import BranchOrder, Dropping
from scionet.methods.method_run import MethodRun
from scionet.methods.widths.allocator import Allocator
from scionet.methods.widths.damage_curves import DamageCurves

_NAMED = 8
"""Branches that a note of the status names, at most."""


@dataclass(frozen=True, eq=False)
class DepthAllocator:
    """Decides which branches are dropped, before the budget is divided among the sites that remain.

    Measurements are made once for all budgets.

    Attributes:
        run: The method at work, on the whole network.
        curves: The damage at each width of each site, if widths need it.
    """

    run: MethodRun
    curves: DamageCurves | None

    def allocator(self, budget: Budget | None) -> Allocator:
        """What divides a budget, or gives the given widths, in the network without the dropped branches.

        Raises:
            InvalidSetting: If there is no branch of a given name, or not as many as shall be dropped.
            CalibrationError: If there are no data to measure a constant on.
            UnreachableBudget: If no number of branches meets the budget.
        """
        rule = self.run.settings.depth
        if rule is None:
            return Allocator(self.run, self.curves)
        if isinstance(rule, DropBranches):
            return self._without(Dropping(tuple(rule.branches), self._joint_damage(rule.branches)))
        droppings = self._order.droppings(rule, budget)
        if rule.count is None:
            assert budget is not None, "checked before"
            return self._least(droppings, budget)
        found = [*islice(droppings, rule.count + 1)]
        if len(found) <= rule.count:
            raise InvalidSetting(
                f"{rule.count} branches shall be dropped, and {len(found) - 1} can be, together; lower the count"
            )
        return self._without(found[-1])

    def _least(self, droppings: Iterator[Dropping], budget: Budget) -> Allocator:
        """The allocator with the least predicted damage within the budget, of the branches and the widths together.

        Raises:
            UnreachableBudget: If there is none.
        """
        least, best, refusal = np.inf, None, None
        for dropping in droppings:
            if dropping.damage > least:
                break
            allocator = self._without(dropping)
            try:
                widths = allocator.widths(budget)
            except UnreachableBudget as error:
                refusal = error
                continue
            damage = dropping.damage if widths.predicted is None else widths.predicted[0]
            if damage < least:
                least, best = damage, allocator
        if best is None:
            raise refusal or UnreachableBudget("no branch can be dropped")
        return best

    def _without(self, dropping: Dropping) -> Allocator:
        """The allocator of the network without some branches."""
        left = self.run.without({name: self._constants[name] for name in dropping.names})
        curves = None if self.curves is None else self.curves.within(left.sites)
        return Allocator(left, curves, dropping.damage, _note(self.run, dropping.names))

    @cached_property
    def _order(self) -> BranchOrder:
        rule, distance = self.run.settings.depth, None if self.curves is None else self.curves.distance
        assert rule is not None
        assert not isinstance(rule, DropBranches)
        if not isinstance(rule, BranchScores):
            return BranchOrder(self.run, self._constants, measure_for(rule.measure, self.run, distance), {})
        needs = rule.count is None or distance is not None
        measure = measure_for("output", self.run, distance) if needs else None
        return BranchOrder(self.run, self._constants, measure, Allocator(self.run, None).scores)

    @cached_property
    def _constants(self) -> Mapping[str, Tensor | None]:
        """What takes the place of each branch that may be dropped."""
        rule, branches = self.run.settings.depth, self.run.sites.branches
        assert rule is not None
        names = rule.branches if isinstance(rule, DropBranches) else [*branches]
        self.run.sites.refuse_clash(names if isinstance(rule, DropBranches) else ())
        if not rule.constants:
            return dict.fromkeys(names)
        return branch_means(self.run.network, self.run.calibration, [branches[name] for name in names])

    def _joint_damage(self, names: Sequence[str]) -> float:
        """The distance of the output without some branches, if sensitivities are measured; otherwise 0."""
        if self.curves is None or self.curves.distance is None:
            return 0.0
        dropped = {name: self._constants[name] for name in names}
        return self.curves.distance.of(self.run.network.without(dropped).masked({}))


def refuse_depth(settings: Settings, budgets: Sequence[Budget | None]) -> None:
    """Check what depth and widths demand of one another.

    Raises:
        InvalidSetting: If widths stay whole and no branch is dropped; or if the number of branches is left open and
            nothing decides it.
    """
    rule, widths = settings.depth, settings.widths
    if isinstance(widths, Whole) and rule is None:
        raise InvalidSetting("widths 'whole' leave all units: say which branches go, such as depth='branch_damage'")
    if rule is None or isinstance(rule, DropBranches) or rule.count is not None:
        return
    if None in budgets or not isinstance(widths, Sensitivity | Whole):
        raise InvalidSetting(
            f"{rule} without a count lets a budget and the predicted change of the output decide how many branches go; "
            "give a budget with widths 'sensitivity' or 'whole', or a count"
        )
    if not isinstance(rule, BranchScores) and rule.measure != "output" and isinstance(widths, Sensitivity):
        raise InvalidSetting(
            f"{rule} without a count would add the rise of the loss to changes of the output; give a count, or widths "
            "'whole', or measure='output'"
        )


def narrowest(costs: CostModel, rule: DepthRule | None) -> CostModel:
    """The cost of the network with the fewest branches that a rule allows, to see which budgets are out of reach.

    Raises:
        InvalidSetting: If there is no branch of a given name, or one lies in another.
    """
    if rule is None:
        return costs
    value = 0.0 if rule.constants else None
    if isinstance(rule, DropBranches):
        return costs.without(dict.fromkeys(rule.branches, value))
    apart: list[str] = []
    branches = costs.sites.branches
    for name in sorted(branches, key=lambda name: -len(branches[name].tensors)):
        if not any(branches[name].overlaps(branches[other]) for other in apart):
            apart.append(name)
    return costs.without(dict.fromkeys(apart, value))


def _note(run: MethodRun, names: Sequence[str]) -> tuple[str, ...]:
    """What the status says of the dropped branches."""
    many = len(run.sites.branches)
    if not names:
        return (f"none of {many} residual branches dropped",)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (f"{len(names)} of {many} residual branches dropped: {', '.join(names[:_NAMED])}{more}",)
