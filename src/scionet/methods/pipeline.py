"""What all methods share: the budget is shared out, walks decide, rank and refit. What differs is the `Ranker`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from scionet.budget.allocation.reach import NO_GAIN, TOLERANCE, shortfall
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting
from scionet.methods.calibration.holdout import kept_apart
from scionet.methods.contract import Method, Ranker
from scionet.methods.refit.refit import Fitting
from scionet.methods.repair.reconstruction import ReconstructionData, reconstructed, refuse_processes
from scionet.methods.walk import Task, Walk
from scionet.methods.width_search import best_tried
from scionet.methods.widths.allocator import Allocator, SharedWidths
from scionet.network.calling import undisturbed
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.progress import Progress, silent
from scionet.seeds import seeded
from scionet.settings import SweepSettings

_NO_WEIGHT = "line search gives weight to no more units; refit=True makes use of every unit"


class Pipeline(Method):
    """A method made of a ranker and the shared walk."""

    def __init__(self, name: str, settings: SweepSettings, ranker: Ranker) -> None:
        self.name, self.settings, self.ranker = name, settings, ranker
        self.uses_labels = ranker.uses_labels

    def select(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        sites: Sites,
        budget: Budget | None,
        seed: int,
        progress: Progress = silent,
        costs: CostModel | None = None,
    ) -> Plan:
        """Choose; see `Method.select`."""
        return self.select_each(model, batches, sites, [budget], seed, progress, costs)[0]

    def select_each(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        sites: Sites,
        budgets: Sequence[Budget | None],
        seed: int,
        progress: Progress = silent,
        costs: CostModel | None = None,
    ) -> list[Plan]:
        """Choose for each budget; what widths are decided by is measured once.

        Raises:
            InvalidSetting: If there is neither a budget nor a stop rule, or both;
                or if the seed is no whole number from 0 on.
            UnreachableBudget: If no widths meet a budget.
            CalibrationError: If the calibration data are empty or make the network produce NaN or infinite values.
        """
        stop_rule = getattr(self.settings, "tolerance", None) is not None
        if any((budget is None) != stop_rule for budget in budgets):
            raise InvalidSetting("give either a budget (such as 'macs<=50%') or a tolerance with objective 'loss'")
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise InvalidSetting(f"the seed must be a whole number from 0 on; given {seed!r}")
        if self.settings.sweeps > 1 and not self.ranker.uses_moments:
            raise InvalidSetting(
                f"sweeps={self.settings.sweeps} would repeat itself: method {self.name!r} does not choose by what "
                "consumers give in the pruned network; set sweeps=1"
            )
        judged: list[Any] = []
        if self.settings.reconstruct_steps:
            refuse_processes()
            with undisturbed(model):  # a data loader takes its seed from torch's generator
                batches, judged = kept_apart(batches)
        fitting, generators = Fitting(model, sites, self.settings), seeded(seed)
        inputs = _Inputs(batches) if self.uses_labels else batches
        ranker = self.ranker.ready(model, sites, batches)
        allocator = Allocator(ranker, fitting, inputs, costs or CostModel(sites), generators, progress)
        if self.settings.width_trials and allocator.allocation != "measured":
            raise InvalidSetting(
                f"width_trials={self.settings.width_trials} goes with allocation 'measured', this method's is "
                f"{allocator.allocation!r}; set allocation='measured' or width_trials=0"
            )
        task = Task(self.name, seed, batches, inputs, allocator, progress)
        plans = [_grown(task, budget) for budget in budgets]
        if not self.settings.reconstruct_steps:
            return plans
        material = ReconstructionData([*inputs], [*(_Inputs(judged) if self.uses_labels else judged)], seed)
        return [reconstructed(model, sites, plan, material, self.settings, progress) for plan in plans]


def _grown(task: Task, budget: Budget | None) -> Plan:
    """A plan at or below the budget, after all sweeps; where sites cannot use their share, others get it.

    Of the walks made for that, the one that uses most of the budget counts.
    """
    settings, costs, max_units = task.allocator.fitting.settings, task.allocator.costs, dict[str, int]()

    def spare(walk: Walk) -> float:
        return 0.0 if budget is None else budget.slack(costs.cost(walk.kept), costs.dense)

    walk = best = Walk(task, _shares(task, budget, max_units)).grow()
    while spare(walk) > TOLERANCE and (saturated := _saturated(walk)):
        max_units |= saturated
        walk = Walk(task, _shares(task, budget, max_units)).grow()
        best = min(best, walk, key=spare)
    for _ in range(settings.sweeps - 1):
        best = best.again()
    plan = best.plan()
    if budget is None:
        return plan
    unused = _NO_WEIGHT if max_units or _saturated(best) else NO_GAIN
    rounding = {"round_to": settings.round_to, "min_units": settings.min_units}
    note = shortfall(costs, budget, plan.widths, **rounding, unused=unused)
    return replace(plan, status=f"{plan.status}; {note}") if note else plan


def _shares(task: Task, budget: Budget | None, max_units: Mapping[str, int]) -> SharedWidths:
    """How many units each site may keep; those in `max_units` at most that many, since they could not use more."""
    allocator = task.allocator
    if budget is None:
        return SharedWidths({name: site.width for name, site in allocator.fitting.sites.items()})
    if not allocator.fitting.settings.width_trials:
        return allocator.shares(budget, max_units)
    return best_tried(task, budget, max_units)


def _saturated(walk: Walk) -> dict[str, int]:
    """Sites that kept fewer units than they might, with how many they kept."""
    kept = walk.kept
    return {name: kept[name] for name, width in walk.shares.widths.items() if kept[name] < width}


class _Inputs:
    """Batches of pairs without their labels, iterable again and again."""

    def __init__(self, pairs: Iterable[Any]) -> None:
        self.pairs = pairs

    def __iter__(self) -> Any:
        return (pair[0] for pair in self.pairs)
