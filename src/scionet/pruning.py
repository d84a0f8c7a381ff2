"""prune and prune_each: from a trained network to a smaller one, in one call."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from scionet.budget.allocation.explicit import explicit
from scionet.budget.allocation.reach import refuse_exceeded, refuse_unreachable
from scionet.budget.budget import Budget
from scionet.budget.costs import Cost, CostModel, measure
from scionet.budget.latency.table import LatencyTable
from scionet.budget.latency_report import LatencyReport
from scionet.choices.depth import DropBranches
from scionet.choices.limits import Limits
from scionet.choices.resources import Resources
from scionet.choices.settings import (
    GivenDepth,
    GivenOutputs,
    GivenRepair,
    GivenWidths,
    Settings,
    depth_from,
    outputs_from,
    repair_from,
    widths_from,
)
from scionet.choices.widths import Widths
from scionet.errors import BudgetExceeded, InvalidSetting, UnsupportedModel
from scionet.methods.calibration.calibration import read, refuse_no_batches
from scionet.methods.contract import Method
from scionet.methods.depth.depth import narrowest
from scionet.methods.problem import Problem
from scionet.methods.registry import GivenMethod, method_for
from scionet.network.calling import Batch
from scionet.network.discovery.data_dependence import Paths, marked_as_varying, varying_places
from scionet.network.discovery.discover import discover
from scionet.network.discovery.unprunable import refuse_unprunable
from scionet.network.guard import guarded
from scionet.network.multiprocess import world
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.sites import Refusal, Sites
from scionet.network.sites_table import refusal_reasons
from scionet.network.surgery.cut import cut
from scionet.network.surgery.verification import rounding_error, verify_unchecked
from scionet.progress import Progress, bars_where_wanted

_LIMITS, _RESOURCES = Limits(), Resources()
_MAGNIFIED = 1e3
"""Networks that magnify the rounding of their weights by more are reported. Most magnify it 10 to 50 times."""
_NAMED = 4
"""Places that a note of the status names, at most."""
_PATHS = 8
"""Calibration batches on other paths through the network that a cut is verified on, at most."""
_SHOWN = 60
"""Sites that a printed report lists, at most."""


@dataclass(frozen=True)
class PruneReport:
    """What pruning did, in numbers. ``print(report)`` shows it as a page.

    Attributes:
        dense: Cost of the dense network.
        pruned: Cost of the pruned network, counted after the cut. MACs that depend on the data, as those behind a
            detector's proposals do, count in neither; the status names their places.
        difference: Largest relative difference between masked and cut network, on the example inputs, a calibration
            batch, and calibration batches on which the forward takes another path.
        widths: Units before and after, by site.
        refused: What was left whole, and why.
        seconds: Wall-clock time of each stage; where several budgets shared a selection, of all of it.
        status: How the selections ended.
        latency: Predicted and measured latency, where a latency table was used.
        dropped: The residual branches that were dropped, and whether a constant takes the place of each.
    """

    dense: Cost
    pruned: Cost
    difference: float
    widths: Mapping[str, tuple[int, int]]
    refused: Sequence[Refusal]
    seconds: Mapping[str, float]
    status: str
    latency: LatencyReport | None = None
    dropped: Mapping[str, bool] = field(default_factory=dict)

    def __str__(self) -> str:
        """The report as text."""
        latency = [] if self.latency is None else [str(self.latency)]
        kept = sum(after for _, after in self.widths.values()) / max(1, sum(n for n, _ in self.widths.values()))
        return "\n".join(
            [
                f"MACs    {self.dense.macs / 1e6:,.2f} M -> {self.pruned.macs / 1e6:,.2f} M "
                f"({self.pruned.macs / self.dense.macs:.1%} kept)",
                f"params  {self.dense.params / 1e6:,.3f} M -> {self.pruned.params / 1e6:,.3f} M "
                f"({self.pruned.params / self.dense.params:.1%} kept)",
                *latency,
                f"units   {kept:.1%} kept at {len(self.widths)} sites; {len(self.refused)} left whole",
                *self._dropped(),
                *self._sites(),
                *self._left_whole(),
                f"masked and cut network agree to {self.difference:.1e} (relative); "
                f"{sum(self.seconds.values()):.1f} s in total",
                self.status,
            ]
        )

    def __repr__(self) -> str:
        """The report in a line."""
        return (
            f"PruneReport({self.pruned.macs / self.dense.macs:.1%} of the MACs, "
            f"{self.pruned.params / self.dense.params:.1%} of the parameters, {len(self.widths)} sites)"
        )

    def _dropped(self) -> list[str]:
        """The dropped branches."""
        if not self.dropped:
            return []
        names = [name if constant else f"{name} (without a constant)" for name, constant in self.dropped.items()]
        lines = [f"  {name}" for name in names[:_SHOWN]]
        more = [f"  ... and {len(names) - _SHOWN} more in report.dropped"] if len(names) > _SHOWN else []
        return [f"depth   {len(names)} residual {'branch' if len(names) == 1 else 'branches'} dropped", *lines, *more]

    def _sites(self) -> list[str]:
        """Each site's width before and after."""
        rows = list(self.widths.items())
        longest = max((len(name) for name, _ in rows[:_SHOWN]), default=0)
        lines = [f"  {name:<{longest}}  {before:>5} -> {after:>5}" for name, (before, after) in rows[:_SHOWN]]
        return [*lines, *([f"  ... and {len(rows) - _SHOWN} more in report.widths"] if len(rows) > _SHOWN else [])]

    def _left_whole(self) -> list[str]:
        """What was left whole, why, and what to do."""
        return [
            f"  left whole: {each.site} ({each.operation} in {each.module or 'the network'}); {each.advice}"
            for each in self.refused[:_SHOWN]
        ]


@dataclass(frozen=True, repr=False)
class PruneResult:
    """A smaller network, its plan and its report.

    Attributes:
        model: The pruned network: a copy, of the same class.
        plan: The kept units, in the order in which they were picked.
        report: Costs, widths and times.
        sites: The dense network's sites, which `save_pruned` records.
        latency_table: The table from which latency was predicted, if the budget limits it.
    """

    model: nn.Module
    plan: Plan
    report: PruneReport
    sites: Sites
    latency_table: LatencyTable | None = field(default=None)

    def __repr__(self) -> str:
        """The result in a line."""
        return f"PruneResult({type(self.model).__name__}, method {self.plan.method!r}, {self.report!r})"


def prune(
    model: nn.Module,
    data: Iterable[Any] = (),
    budget: Budget | str | Mapping[str, object] | None = None,
    *,
    example_inputs: Batch,
    method: GivenMethod = "forward",
    widths: GivenWidths | None = None,
    depth: GivenDepth | None = None,
    repair: GivenRepair | None = None,
    outputs: GivenOutputs | None = None,
    limits: Limits = _LIMITS,
    resources: Resources = _RESOURCES,
    latency_table: LatencyTable | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> PruneResult:
    """Make a smaller network out of a trained one, without training.

    Autocast, inference mode and a default device are off meanwhile. Calls from several threads wait for one another; to
    prune at the same time, use processes. Do not run `model` itself in another thread meanwhile.

    Args:
        model: The trained network. It is not changed.
        data: Calibration data: batches of inputs like `example_inputs`, read once. Labels may follow the inputs; only
            methods that need labels use them. A few hundred to a few thousand examples suffice. Scores that use only
            weights need none.
        budget: Limits on the pruned network: ``"macs<=50%"``, ``"params<=1.2M"``, ``"latency<=60%"``, several joined by
            a comma, or a `Budget`. None if `widths` or the method decide how much remains.
        example_inputs: Inputs of the model: a tensor, a tuple of positional or a dict of keyword arguments. A limit on
            latency applies to one forward pass of this batch.
        method: How units are chosen: ``"forward"`` (greedy forward selection), ``"l1"``, ``"taylor"``, ... (see
            `list_methods`), `Forward` or `Score` with settings, or a function from a `SiteView` and a random generator
            to one score per unit.
        widths: How the budget is divided among the layers: ``"sensitivity"`` (the default with data), ``"uniform"``
            (the default without), ``"error_curves"``, ``"isomorphic"``, ``"global"``, ``"whole"`` (only branches are
            dropped), or the classes of these names. In place of a budget, ``Widths({"layer1.0.conv1": 32})`` says how
            many units each site keeps.
        depth: Which residual branches are dropped: none by default; a list of names, as in ``discover(...).branches``;
            ``"branch_damage"``, ``"branch_elimination"`` or ``"branch_scores"``, or the classes of these names.
        repair: Steps that repair the weights: ``["refit"]`` by default with data, ``[]`` without; further
            ``"recalibrate"`` and ``"reconstruct"``, or the classes of these names.
        outputs: Which outputs count, and how a change is measured: ``"kl"``, ``"squared"``, or `Outputs`. By default
            all floating-point ones, class scores by divergence and others by squared error.
        limits: Multiples and minima of widths, and layers that stay whole.
        resources: Memory, workers, and how many examples and positions are sampled.
        latency_table: Measured times of the network's operations. Without it, they are measured now if the budget
            limits latency.
        seed: Root of all randomness.
        progress: Show progress bars on standard error; by default where that is a terminal.

    Raises:
        UnsupportedModel: If nothing can be pruned, or the network's own weights are missing, NaN or infinite.
        UnreachableBudget: If even the narrowest network exceeds the budget; the text names its cost.
        BudgetExceeded: If the cut network exceeds the budget although its widths should not.
        CalibrationError: If the calibration data are empty, do not fit, or make the network produce NaN.
        InvalidSetting: If a name, a setting or the seed is not allowed, or the latency table is of another network,
            batch or device.
        VerificationError: If the cut network does not compute what the masked one does.
        UnsupportedMode: If another mode of torch is on (fake tensors, a transform of torch.func, one of your own).
    """
    return prune_each(
        model,
        data,
        [budget],
        example_inputs=example_inputs,
        method=method,
        widths=widths,
        depth=depth,
        repair=repair,
        outputs=outputs,
        limits=limits,
        resources=resources,
        latency_table=latency_table,
        seed=seed,
        progress=progress,
    )[0]


@guarded
def prune_each(
    model: nn.Module,
    data: Iterable[Any],
    budgets: Sequence[Budget | str | Mapping[str, object] | None],
    *,
    example_inputs: Batch,
    method: GivenMethod = "forward",
    widths: GivenWidths | None = None,
    depth: GivenDepth | None = None,
    repair: GivenRepair | None = None,
    outputs: GivenOutputs | None = None,
    limits: Limits = _LIMITS,
    resources: Resources = _RESOURCES,
    latency_table: LatencyTable | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> tuple[PruneResult, ...]:
    """Make a smaller network for each of several budgets. Sensitivities and error curves are measured only once.

    Each result equals that of `prune` for the same budget. `prune` describes all arguments.

    Args:
        model: The trained network.
        data: Batches of inputs.
        budgets: One budget for each result.
        example_inputs: Inputs of the model.
        method: How units are chosen.
        widths: How each budget is divided among the layers.
        depth: Which residual branches are dropped.
        repair: Steps that repair the weights.
        outputs: How a change of the output is measured.
        limits: Multiples and minima of widths, and layers that stay whole.
        resources: Memory, workers, and samples.
        latency_table: Measured times of the network's operations.
        seed: Root of all randomness.
        progress: Show progress bars on standard error; by default where that is a terminal.

    Raises:
        PruneError: As `prune` does.
    """
    refuse_no_batches(data)
    has_data = not (isinstance(data, list | tuple) and not data)
    chosen = _method(method, widths, depth, repair, outputs, limits, resources, has_data)
    wanted = [None if budget is None else Budget.of(budget) for budget in budgets]
    chosen.check(wanted, seed)
    refuse_unprunable(model)
    _refuse_blank(model)
    watch = _StopWatch()
    sites = discover(model, example_inputs, limits.ignored_layers)
    if not sites and depth is None:
        raise UnsupportedModel(
            f"{type(model).__name__} has no channels that can be removed. {'; '.join(refusal_reasons(sites.refused))}. "
            f"It has {len(sites.branches)} residual branches that can be dropped: give depth"
        )
    network = Network(model, sites)
    watch.lap("discover")
    with bars_where_wanted(progress) as tell:
        costs = CostModel(sites, _table(latency_table, wanted, network, example_inputs, tell))
        watch.lap("latency table")
        bounds = {"round_to": limits.round_to, "min_units": limits.min_units}
        least = narrowest(costs, depth_from(depth))
        for budget in wanted:  # before any data are read
            if budget is not None:
                refuse_unreachable(least, budget, **bounds)
        if isinstance(widths, Widths):
            explicit(least if isinstance(depth, DropBranches) else costs, widths.units, **bounds)
        paths = Paths(network, example_inputs)
        given = read(
            network,
            data,
            example_inputs,
            labels=chosen.uses_labels,
            batch_size=resources.batch_size,
            memory_bytes=resources.memory_bytes,
            check=paths.see,
            whole=paths.one_by_one,
        )
        problem = chosen.prepared(Problem(network, given, costs), seed)
        del given  # examples that were copied into parts are freed
        verified = [example_inputs, *problem.calibration.inputs[:1], *paths.found[:_PATHS]]
        watch.lap("read")
        plans = chosen.select_each(problem, wanted, seed, tell)
        watch.lap("select")
        finish = partial(_finished, chosen, problem, verified, seed, tell)
        return tuple(finish(plan, budget, watch.fork()) for plan, budget in zip(plans, wanted, strict=True))


def _method(
    method: GivenMethod,
    widths: GivenWidths | None,
    depth: GivenDepth | None,
    repair: GivenRepair | None,
    outputs: GivenOutputs | None,
    limits: Limits,
    resources: Resources,
    has_data: bool,
) -> Method:
    """The method with its settings.

    Raises:
        InvalidSetting: If a choice is not allowed, or a method of the caller's own gets settings that it does not take.
    """
    if isinstance(method, Method):
        given = {"widths": widths, "depth": depth, "repair": repair, "outputs": outputs}
        if extra := [name for name, value in given.items() if value is not None]:
            raise InvalidSetting(f"{method.name!r} is a Method and decides by itself; leave out {', '.join(extra)}")
        return method
    settings = Settings(
        widths=None if widths is None else widths_from(widths),
        depth=depth_from(depth),
        repair=repair_from(["refit"] if repair is None and has_data else repair or []),
        outputs=outputs_from(outputs),
        limits=limits,
        resources=resources,
    )
    return method_for(method, settings, has_data)


def _finished(
    method: Method,
    problem: Problem,
    batches: Sequence[Batch],
    seed: int,
    tell: Progress,
    plan: Plan,
    budget: Budget | None,
    watch: "_StopWatch",
) -> PruneResult:
    """Cut, verify and report. Where the plan first reveals that MACs vary, divide the budget once more without them.

    Raises:
        PruneError: As `_result` does, for the second plan.
    """
    try:
        return _result(problem, plan, budget, batches, watch)
    except BudgetExceeded:
        sites = problem.costs.sites
        varying = varying_places(problem.network, [plan], batches[0]) - sites.uncounted
        if not varying:
            raise
    sites = marked_as_varying(sites, varying)
    network, costs = replace(problem.network, sites=sites), CostModel(sites, problem.costs.table)
    problem = replace(problem, network=network, costs=costs)
    (plan,) = method.select_each(problem, [budget], seed, tell)
    watch.lap("select again")
    note = "the budget was divided twice, since the first plan revealed MACs that depend on the data"
    return _result(problem, replace(plan, status=f"{plan.status}; {note}"), budget, batches, watch)


def _result(
    problem: Problem, plan: Plan, budget: Budget | None, batches: Sequence[Batch], watch: "_StopWatch"
) -> PruneResult:
    """Cut, verify on all batches, count on the first of them, and report.

    Raises:
        VerificationError: If the cut network does not compute what the masked one does.
        BudgetExceeded: If the cut network costs more than the budget allows.
    """
    costs, model, example_inputs = problem.costs, problem.network.model, batches[0]
    sites, left = costs.sites, costs.without(plan.dropped)
    pruned = cut(model, plan, sites)
    watch.lap("cut")
    difference = verify_unchecked(problem.network, plan, pruned, batches)
    watch.lap("verify")
    uncounted = sites.uncounted | varying_places(problem.network, [plan], example_inputs)
    dense, counted = (measure(each, example_inputs, uncounted) for each in (model, pruned))
    if budget is not None:
        latency_ms = costs.dense.latency_ms, left.cost(plan.widths).latency_ms
        refuse_exceeded(budget, replace(counted, latency_ms=latency_ms[1]), replace(dense, latency_ms=latency_ms[0]))
    report = PruneReport(
        dense=dense,
        pruned=counted,
        difference=difference,
        widths=_widths(sites, plan),
        refused=sites.refused,
        seconds=watch.seconds,
        status="; ".join([plan.status, *_note_on_uncounted(uncounted), *_note_on_rounding(pruned, example_inputs)]),
        latency=LatencyReport.of(left, plan.widths, model, pruned, example_inputs),
        dropped={name: constant is not None for name, constant in plan.dropped.items()},
    )
    return PruneResult(pruned, plan, report, sites, costs.table)


def _widths(sites: Sites, plan: Plan) -> dict[str, tuple[int, int]]:
    """Units before and after, by site; none are left inside dropped branches."""
    gone = {site for branch in plan.dropped for site in sites.branches[branch].sites}
    return {n: (site.width, 0 if n in gone else plan.widths.get(n, site.width)) for n, site in sites.items()}


def _note_on_uncounted(places: Collection[str]) -> list[str]:
    """A note on the MACs that do not count, if there are any."""
    if not places:
        return []
    names = sorted(place or "the network itself" for place in places)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"the MACs of {', '.join(names[:_NAMED])}{more} depend on the data and do not count in the budget"]


def _note_on_rounding(pruned: nn.Module, example_inputs: Batch) -> list[str]:
    """A note on a network that magnifies rounding by orders of magnitude, if it does."""
    error, factor = rounding_error(Network(pruned), example_inputs)
    if factor < _MAGNIFIED:
        return []
    return [
        f"the network magnifies rounding about {factor:,.0f} times: a last digit of each weight changes outputs by "
        f"{error:.1e} (relative), so equal networks can differ by that much on other machines or batch sizes"
    ]


def _table(
    given: LatencyTable | None,
    budgets: Sequence[Budget | None],
    network: Network,
    inputs: Batch,
    tell: Progress,
) -> LatencyTable | None:
    """The latency table: as given, or measured now if a budget needs one.

    Raises:
        InvalidSetting: If the given one is of another network, batch or device, or several processes would each measure
            one of their own.
    """
    if given is not None:
        given.check_serves(network.model, inputs, network.sites)
        return given
    if not any(budget is not None and "latency" in budget.quantities for budget in budgets):
        return None
    if world()[1] > 1:
        raise InvalidSetting(
            "several processes would measure different times and choose different widths; measure one LatencyTable, "
            "save it, and give latency_table=LatencyTable.load(path) in every process"
        )
    return LatencyTable.measure(network.model, inputs, network.sites, progress=tell)


def _refuse_blank(model: nn.Module) -> None:
    """Refuse a network without usable weights.

    Raises:
        UnsupportedModel: If a parameter has no data, or holds NaN or infinite values.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise UnsupportedModel(
                f"parameter {name!r} is on the device 'meta' and has no values; give the model memory "
                "(model.to_empty(device='cpu')) and load its weights, then prune"
            )
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise UnsupportedModel(f"parameter {name!r} holds NaN or infinite values; prune a network that works")


class _StopWatch:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def fork(self) -> "_StopWatch":
        """One that goes on from here by itself."""
        other = _StopWatch()
        other.seconds = dict(self.seconds)
        return other

    def lap(self, stage: str) -> None:
        """The stage ends now."""
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now
