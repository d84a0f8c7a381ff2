"""The pipeline that all methods share: divide the budget, walk, repair. Methods differ in their ranker."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from scionet.budget.allocation.reach import NO_GAIN, TOLERANCE, shortfall
from scionet.budget.budget import Budget
from scionet.choices.depth import BranchDamage, BranchElimination
from scionet.choices.outputs import Outputs
from scionet.choices.repair import Recalibrate, Reconstruct
from scionet.choices.settings import Settings
from scionet.choices.widths import ErrorCurves, Sensitivity, Widths
from scionet.errors import CalibrationError, InvalidSetting, UnsupportedModel
from scionet.methods.calibration.calibration import ALL
from scionet.methods.calibration.holdout import divided
from scionet.methods.contract import Method, Ranker
from scionet.methods.depth.depth import DepthAllocator, refuse_depth
from scionet.methods.method_run import MethodRun
from scionet.methods.problem import Problem
from scionet.methods.refit.refit import Fitting
from scionet.methods.repair.recalibration import recalibrated
from scionet.methods.repair.reconstruction import reconstructed, reconstruction_data, refuse_processes
from scionet.methods.walk import AllocatedWidths, Walk
from scionet.methods.width_search import searched
from scionet.methods.widths.allocator import Allocator
from scionet.methods.widths.damage_curves import measured_curves
from scionet.methods.widths.verdict import verdict
from scionet.network.plan import Plan
from scionet.progress import Progress, silent
from scionet.seeds import seeded


class Pipeline(Method):
    """A method that consists of a ranker and the shared pipeline."""

    def __init__(self, ranker: Ranker, settings: Settings) -> None:
        self.ranker, self.settings, self.name = ranker, settings, ranker.name
        depth = settings.depth
        measured = isinstance(depth, BranchDamage | BranchElimination)
        self.uses_labels = ranker.uses_labels or (measured and depth.measure == "task_loss")
        measures = isinstance(settings.widths, Sensitivity | ErrorCurves) or measured
        constants = depth is not None and depth.constants
        self.uses_data = ranker.uses_data or bool(settings.repair) or measures or constants

    def __repr__(self) -> str:
        """The pipeline in one line."""
        return f"Pipeline({self.name!r}, widths={self.settings.widths!r}, repair={[*self.settings.repair]!r})"

    @property
    def described(self) -> Mapping[str, Any]:
        """All settings as JSON."""
        return {"method": dict(self.ranker.described), **self.settings.described()}

    def select(self, problem: Problem, budget: Budget | None, seed: int, progress: Progress = silent) -> Plan:
        """Choose; see `Method.select`."""
        return self.select_each(problem, [budget], seed, progress)[0]

    def select_each(
        self, problem: Problem, budgets: Sequence[Budget | None], seed: int, progress: Progress = silent
    ) -> list[Plan]:
        """Choose for each budget. Measurements that decide the widths are made once for all budgets.

        Raises:
            InvalidSetting: If there is none of a budget, given widths and a stop rule, or more than one; if the seed is
                not a whole number of 0 or more; or if further passes would change nothing.
            UnreachableBudget: If even the narrowest network exceeds a budget.
            CalibrationError: If the calibration data are empty or make the network produce NaN or infinite values.
        """
        self.check(budgets, seed)
        generators = seeded(seed)
        problem = self.prepared(problem, seed)
        if any(isinstance(step, Reconstruct) for step in self.settings.repair):
            refuse_processes()
            reconstruction_data(problem, seed)  # too few examples are refused before the walk
        run = MethodRun(
            problem,
            self.ranker.ready(problem),
            Fitting(problem.network, self.settings.refit, self.settings.resources.positions),
            self.settings,
            generators,
            progress,
        )
        depth = DepthAllocator(run, None if None in budgets else measured_curves(run))
        plans = []
        for budget in budgets:
            walk, plan = self._walked(depth.allocator(budget), budget, seed)
            plans.append(self._judged(run, walk, self._repaired(run, plan)))
        return plans

    def prepared(self, problem: Problem, seed: int) -> Problem:
        """The problem with the outputs that count, and with held-out examples, if there are enough.

        Choices and the result are judged by them. Those that the caller holds out are used as they are.
        """
        problem = replace(problem, network=replace(problem.network, outputs=self.settings.outputs))
        if problem.held_out is not None:
            return problem
        reconstructs = any(isinstance(step, Reconstruct) for step in self.settings.repair)
        most = ALL if reconstructs else self.settings.judged_examples
        parts = divided(problem.calibration, most, seeded(seed), problem.network.device)
        return problem if parts is None else replace(problem, calibration=parts[0], held_out=parts[1])

    def _walked(self, allocator: Allocator, budget: Budget | None, seed: int) -> tuple[Walk, Plan]:
        """Return a walk within the budget, after all passes, and its plan.

        If sites cannot use their share, another walk gives it to other sites. Of these walks, the one that uses most of
        the budget is kept.
        """
        run, max_units = allocator.run, dict[str, int]()
        costs = run.problem.costs

        def spare(walk: Walk) -> float:
            return 0.0 if budget is None else budget.slack(costs.cost(walk.kept), costs.dense)

        walk = best = Walk(run, self._widths(allocator, budget, max_units)).walk()
        while spare(walk) > TOLERANCE and (saturated := _saturated(walk)):
            max_units |= saturated
            walk = Walk(run, self._widths(allocator, budget, max_units)).walk()
            best = min(best, walk, key=spare)
        for _ in range(self.ranker.passes - 1):
            best = best.again()
        plan = best.plan(self.name, self.described, seed)
        if budget is None:
            return best, plan
        limits = self.settings.limits
        unused = self.ranker.why_fewer if max_units or _saturated(best) else NO_GAIN
        bounds = {"round_to": limits.round_to, "min_units": limits.min_units}
        note = shortfall(costs, budget, plan.widths, **bounds, unused=unused)
        return best, replace(plan, status=f"{plan.status}; {note}") if note else plan

    def _widths(self, allocator: Allocator, budget: Budget | None, max_units: Mapping[str, int]) -> AllocatedWidths:
        """The widths of all sites."""
        rule = self.settings.widths
        if budget is not None and isinstance(rule, Sensitivity) and rule.search:
            return searched(allocator, budget, max_units, rule.search)
        return allocator.widths(budget, max_units)

    def _repaired(self, run: MethodRun, plan: Plan) -> Plan:
        """The plan after the repair steps that follow the walk, in their order."""
        for step in self.settings.further_repair:
            if isinstance(step, Recalibrate):
                plan = recalibrated(run.problem, plan)
            elif isinstance(step, Reconstruct):
                data = reconstruction_data(run.problem, plan.seed)
                plan = reconstructed(run.network, plan, data, step, self.settings.outputs, run.progress)
        return plan

    def _judged(self, run: MethodRun, walk: Walk, plan: Plan) -> Plan:
        """The plan after the repair; with data, its status says how the outputs change.

        Raises:
            UnsupportedModel: If the outputs that the user chose cannot be compared.
            CalibrationError: If they are NaN or infinite.
        """
        if not run.calibration.total(run.network.device):
            return plan
        try:
            predicted, distance = walk.widths.predicted or (None, run.distance_on(run.judged.inputs))
            repaired = run.network.masked_by(plan) if self.settings.further_repair else None
            unseen = run.problem.held_out is not None or not self.uses_data
            notes = [*verdict(predicted, distance, walk.masked, repaired, unseen)]
        except (UnsupportedModel, CalibrationError) as error:
            if walk.widths.predicted is not None or self.settings.outputs != Outputs():
                raise
            notes = [f"warning: the change of the output was not measured: {str(error).partition(';')[0]}"]
        return replace(plan, status="; ".join([plan.status, *notes]))

    def check(self, budgets: Sequence[Budget | None], seed: int) -> None:
        """Check combinations of arguments that types cannot exclude.

        Args:
            budgets: The budgets.
            seed: Root of all randomness.

        Raises:
            InvalidSetting: If there is none of a budget, given widths and a stop rule, or more than one; if the seed is
                no whole number of 0 or more; or if further passes would change nothing.
        """
        super().check(budgets, seed)
        stops = (self.ranker.tolerance is not None) + isinstance(self.settings.widths, Widths)
        if any((budget is not None) + stops != 1 for budget in budgets):
            raise InvalidSetting(
                "give one of three: a budget, such as 'macs<=50%'; widths=Widths(...); or TaskLoss(tolerance=...)"
            )
        refuse_depth(self.settings, budgets)
        if self.ranker.passes > 1 and (self.settings.refit is None or not self.ranker.uses_moments):
            raise InvalidSetting(
                f"passes={self.ranker.passes} would repeat the first: a further pass needs a refit, and a method that "
                f"chooses by what consumers see in the pruned network, which {self.name!r} does not; set passes=1"
            )


def _saturated(walk: Walk) -> dict[str, int]:
    """Sites that kept fewer units than allowed, with the number that they kept."""
    kept = walk.kept
    return {name: kept[name] for name, width in walk.widths.kept.items() if kept[name] < width}
