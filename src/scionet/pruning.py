"""prune and prune_each: the whole way through, in one call."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scionet.budget.budget import Budget
from scionet.budget.costs import Cost, CostModel, measure
from scionet.budget.latency.table import LatencyTable
from scionet.budget.latency_report import LatencyReport
from scionet.errors import CalibrationError, InvalidSetting, UnsupportedModel
from scionet.methods.contract import Method
from scionet.methods.registry import build
from scionet.network.calling import (
    Batch,
    as_arguments,
    call,
    example_count,
    inputs_like,
    tensors_of,
    to_model,
    undisturbed,
)
from scionet.network.discovery.discover import Ignored, discover
from scionet.network.multiprocess import world
from scionet.network.plan import Plan
from scionet.network.sites import Refusal, Sites
from scionet.network.surgery.cut import cut, verify
from scionet.progress import Progress, bars, silent


@dataclass(frozen=True)
class PruneReport:
    """What pruning did, in numbers.

    Attributes:
        dense: Cost of the dense network.
        pruned: Cost of the pruned network, counted after the cut.
        difference: Largest relative difference between masked and cut network on the example inputs.
        widths: Units before and after, by site.
        refused: What was left whole, and why.
        seconds: Wall-clock time of each stage; where several budgets shared a selection, of all of it.
        status: How the selections ended.
        latency: Predicted and measured latency, where a latency table was used.
    """

    dense: Cost
    pruned: Cost
    difference: float
    widths: Mapping[str, tuple[int, int]]
    refused: Sequence[Refusal]
    seconds: Mapping[str, float]
    status: str
    latency: LatencyReport | None = None

    def __str__(self) -> str:
        """The report for a person to read."""
        latency = "" if self.latency is None else f"{self.latency}\n"
        kept = sum(after for _, after in self.widths.values()) / max(1, sum(n for n, _ in self.widths.values()))
        return (
            f"MACs   {self.dense.macs / 1e6:,.2f} M -> {self.pruned.macs / 1e6:,.2f} M "
            f"({self.pruned.macs / self.dense.macs:.1%} kept)\n"
            f"params {self.dense.params / 1e6:,.3f} M -> {self.pruned.params / 1e6:,.3f} M "
            f"({self.pruned.params / self.dense.params:.1%} kept)\n"
            f"{latency}units  {kept:.1%} kept at {len(self.widths)} sites; {len(self.refused)} left whole\n"
            f"cut equals masked to {self.difference:.1e} (relative); {sum(self.seconds.values()):.1f} s in all\n"
            f"{self.status}"
        )


@dataclass(frozen=True)
class PruneResult:
    """A smaller network and how it came about.

    Attributes:
        model: The pruned network: a copy, of the same class.
        plan: What was kept, and in which order it was chosen.
        report: The numbers.
        sites: The dense network's sites, which `save_pruned` records.
        latency_table: The table that latency was predicted from, if it was.
    """

    model: nn.Module
    plan: Plan
    report: PruneReport
    sites: Sites = field(repr=False)
    latency_table: LatencyTable | None = field(default=None, repr=False)


def prune(
    model: nn.Module,
    calibration_data: Iterable[Any] = (),
    budget: Budget | str | Mapping[str, object] | None = None,
    *,
    example_inputs: Batch,
    method: str | Method = "forward",
    ignored_layers: Ignored = (),
    latency_table: LatencyTable | None = None,
    seed: int = 0,
    progress: bool = False,
    **settings: Any,
) -> PruneResult:
    """Make a smaller network out of a trained one, without training.

    Args:
        model: The trained network. It is left exactly as it was.
        calibration_data: Batches of inputs: tensors, tuples or dicts like `example_inputs`. What a batch holds beyond
            that (labels of a data loader) is ignored, except by objective ``"loss"`` and the methods with gradients of
            the loss (``"taylor"``, ``"snip"``, ``"obd"``, ``"grasp"``, ...; see docs/methods/scores.md), which take
            what follows the inputs as the labels. A few hundred to a few thousand examples;
            baselines that look at weights alone need none without refit.
        budget: What may remain: ``"macs<=50%"``, ``"params<=1.2M"``, ``"latency<=60%"``, several joined by a comma, or
            a `Budget`.
        example_inputs: What the model is called on: a tensor, a tuple of positional or a dict of keyword arguments.
            A limit on latency is about one forward pass of this batch.
        method: ``"forward"`` (greedy forward selection), ``"l1"``, ``"energy"``, ``"taylor"``, ``"random"``, ..., or a
            `Method`.
        ignored_layers: Layers whose channels stay: names, globs, types or modules.
        latency_table: Measured times of the network's operations. Without it, they are measured now if the budget
            limits latency.
        seed: Root of all randomness.
        progress: Whether to show progress bars on standard error.
        **settings: The method's settings, such as ``objective="average"``, ``refit=True`` or ``round_to=8``; see
            `scionet.settings`.

    Raises:
        UnsupportedModel: If nothing can be pruned, or the network's own weights are missing, NaN or infinite.
        UnreachableBudget: If the budget cannot be met; the text names the smallest reachable cost.
        CalibrationError: If the calibration data are empty, do not fit, or make the network produce NaN.
        InvalidSetting: If a name, a setting or the seed is not allowed, or the latency table is of another network,
            batch or device.
        VerificationError: If the cut network does not compute what the masked one does.
    """
    results = prune_each(
        model,
        calibration_data,
        [budget],
        example_inputs=example_inputs,
        method=method,
        ignored_layers=ignored_layers,
        latency_table=latency_table,
        seed=seed,
        progress=progress,
        **settings,
    )
    return next(iter(results))


def prune_each(
    model: nn.Module,
    calibration_data: Iterable[Any],
    budgets: Sequence[Budget | str | Mapping[str, object] | None],
    *,
    example_inputs: Batch,
    method: str | Method = "forward",
    ignored_layers: Ignored = (),
    latency_table: LatencyTable | None = None,
    seed: int = 0,
    progress: bool = False,
    **settings: Any,
) -> tuple[PruneResult, ...]:
    """A smaller network for each of several budgets: what widths are decided by is measured once for all of them.

    Each result is what `prune` gives for that budget alone.

    Args:
        model: See `prune`, as for everything else.
        calibration_data: Batches of inputs.
        budgets: What may remain, once for each result.
        example_inputs: What the model is called on.
        method: Name or `Method`.
        ignored_layers: Layers whose channels stay.
        latency_table: Measured times of the network's operations.
        seed: Root of all randomness.
        progress: Whether to show progress bars on standard error.
        **settings: The method's settings.

    Raises:
        PruneError: As `prune` does.
    """
    chosen = method if isinstance(method, Method) else build(method, **settings)
    if isinstance(method, Method) and settings:
        raise InvalidSetting(f"a Method carries its own settings; give {sorted(settings)} where it is built")
    limits = [None if budget is None else Budget.of(budget) for budget in budgets]
    _refuse_blank(model)
    watch = _StopWatch()
    sites = discover(model, example_inputs, ignored_layers)
    watch.lap("discover")
    batches = CalibrationBatches(model, calibration_data, example_inputs, with_labels=chosen.uses_labels)
    with bars() if progress else nullcontext(silent) as tell:
        costs = CostModel(sites, _table(latency_table, limits, model, example_inputs, sites, tell))
        watch.lap("latency table")
        plans = chosen.select_each(model, batches, sites, limits, seed, tell, costs)
    watch.lap("select")
    return tuple(_result(model, plan, costs, example_inputs, watch.fork()) for plan in plans)


def _result(model: nn.Module, plan: Plan, costs: CostModel, example_inputs: Batch, watch: "_StopWatch") -> PruneResult:
    """Cut, verify and report."""
    sites = costs.sites
    pruned = cut(model, plan, sites)
    watch.lap("cut")
    difference = verify(model, plan, sites, pruned, example_inputs)
    watch.lap("verify")
    report = PruneReport(
        dense=measure(model, example_inputs),
        pruned=measure(pruned, example_inputs),
        difference=difference,
        widths={name: (site.width, plan.widths.get(name, site.width)) for name, site in sites.items()},
        refused=sites.refused,
        seconds=watch.seconds,
        status=plan.status,
        latency=LatencyReport.of(costs, plan.widths, model, pruned, example_inputs),
    )
    return PruneResult(pruned, plan, report, sites, costs.table)


def _table(
    given: LatencyTable | None,
    budgets: Sequence[Budget | None],
    model: nn.Module,
    inputs: Batch,
    sites: Sites,
    tell: Progress,
) -> LatencyTable | None:
    """The latency table: as given, or measured now if a budget needs one.

    Raises:
        InvalidSetting: If the given one is of another network, batch or device, or several processes would each measure
            one of their own.
    """
    if given is not None:
        given.check_serves(model, inputs, sites)
        return given
    if not any(budget is not None and "latency" in budget.quantities for budget in budgets):
        return None
    if world()[1] > 1:
        raise InvalidSetting(
            "several processes would measure different times and choose different widths; measure one LatencyTable, "
            "save it, and give latency_table=LatencyTable.load(path) in every process"
        )
    return LatencyTable.measure(model, inputs, sites, progress=tell)


class CalibrationBatches:
    """Calibration data in the form of the example inputs, iterable again and again.

    Batches whose sizes beyond the first differ from the example's are tried on the model first, so that data that do
    not fit are refused in terms of what was given.

    Raises:
        CalibrationError: If the data are no iterable of batches; on iteration, if a batch does not fit.
    """

    def __init__(self, model: nn.Module, data: Iterable[Any], example_inputs: Batch, with_labels: bool) -> None:
        if isinstance(data, Tensor | Mapping | str) or not isinstance(data, Iterable):
            raise CalibrationError(
                f"calibration_data must be an iterable of batches, such as a list or a data loader; given a "
                f"{type(data).__name__}; wrap a single batch in a list"
            )
        self._data = list(data) if isinstance(data, Iterator) else data
        self._model, self._example, self._with_labels = model, example_inputs, with_labels

    def __iter__(self) -> Iterator[Any]:
        """Batches of inputs, or pairs of inputs and labels."""
        for batch in self._data:
            inputs, labels = inputs_like(self._example, batch)
            self._refuse_misfit(inputs)
            yield (inputs, labels) if self._with_labels else inputs

    def _refuse_misfit(self, inputs: Batch) -> None:
        if example_count(inputs) and _form(inputs) == _form(self._example):
            return
        text = f"a calibration batch of {_form(inputs)} does not fit the network, which runs on {_form(self._example)}"
        if not example_count(inputs):
            raise CalibrationError(f"{text}: it has no examples; leave empty batches out")
        if _ranks(inputs) != _ranks(self._example):
            raise CalibrationError(f"{text}; give batches with as many tensors and dimensions, the first for examples")
        try:
            with undisturbed(self._model):
                call(self._model, to_model(inputs, self._model))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise CalibrationError(f"{text}: {error}") from error


def _form(batch: Batch) -> str:
    """Shapes for any number of examples, and types: one for all floating-point types, which are cast."""
    parts = []
    for tensor in tensors_of(as_arguments(batch)):
        kind = "floats" if tensor.is_floating_point() else str(tensor.dtype)
        parts.append(f"{kind} ({', '.join(['batch', *map(str, tensor.shape[1:])])})")
    return ", ".join(parts)


def _ranks(batch: Batch) -> list[int]:
    return [tensor.ndim for tensor in tensors_of(as_arguments(batch))]


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
