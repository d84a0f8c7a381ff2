"""Select with a method on a network, without cutting anything."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.choices.limits import Limits
from scionet.choices.resources import Resources
from scionet.choices.settings import Settings, depth_from, outputs_from, repair_from, widths_from
from scionet.methods.calibration.calibration import Calibration, read
from scionet.methods.contract import Method, SiteView
from scionet.methods.problem import Problem
from scionet.methods.registry import GivenMethod, method_for
from scionet.network.calling import Batch
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.progress import Progress, silent

ALL_PIXELS = Resources(positions=10_000)
"""Convolutions are fitted on every output pixel, as an oracle does."""


def calibration_for(
    network: Network,
    batches: Iterable[Any],
    *,
    labels: bool = False,
    batch_size: int = 64,
    example: Batch | None = None,
) -> Calibration:
    """Calibration examples, in the form of the first batch unless an example is given."""
    batches = list(batches)
    if not batches:
        return Calibration((), batch_size)
    if example is None:
        example = batches[0][0] if isinstance(batches[0], tuple | list) else batches[0]
    options = {"labels": labels, "batch_size": batch_size, "memory_bytes": float("inf")}
    return read(network, batches, example, **options)  # type: ignore[arg-type]


def problem_for(model: nn.Module, batches: Iterable[Any], sites: Sites, **options: Any) -> Problem:
    network = Network(model, sites)
    return Problem(network, calibration_for(network, batches, **options), CostModel(sites))


def method_with(
    method: GivenMethod,
    *,
    widths: Any = None,
    depth: Any = None,
    repair: Any = ("refit",),
    outputs: Any = None,
    limits: Limits = Limits(),  # noqa: B008  frozen
    resources: Resources = Resources(),  # noqa: B008  frozen
) -> Method:
    """The method as `prune` would build it for a network with calibration data."""
    chosen = None if widths is None else widths_from(widths)
    parts = repair_from(repair), outputs_from(outputs), limits, resources, depth_from(depth)
    return method_for(method, Settings(chosen, *parts))


def select_each(
    method: GivenMethod,
    model: nn.Module,
    batches: Iterable[Any],
    sites: Sites,
    budgets: Sequence[Budget | None],
    seed: int = 0,
    progress: Progress = silent,
    hold_out: bool = True,
    **choices: Any,
) -> list[Plan]:
    """A plan for each budget. Without `hold_out`, all examples are fitted on, and judged by."""
    chosen = method_with(method, **choices)
    batch_size = choices.get("resources", Resources()).batch_size
    problem = problem_for(model, batches, sites, labels=chosen.uses_labels, batch_size=batch_size)
    if not hold_out:
        problem = replace(problem, held_out=problem.calibration)
    return chosen.select_each(problem, budgets, seed, progress)


def select(
    method: GivenMethod,
    model: nn.Module,
    batches: Iterable[Any],
    sites: Sites,
    budget: Budget | None,
    seed: int = 0,
    **choices: Any,
) -> Plan:
    """A plan; refits by default, as `prune` does with data."""
    return select_each(method, model, batches, sites, [budget], seed, **choices)[0]


def view_of(
    model: nn.Module,
    sites: Sites,
    site: str,
    batches: Iterable[Any] = (),
    *,
    labels: bool = False,
    batch_size: int = 64,
    example: Batch | None = None,
    gates: dict[str, Tensor] | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> SiteView:
    """What a ranker is shown of a site, without moments."""
    network = Network(model, sites)
    calibration = calibration_for(network, batches, labels=labels, batch_size=batch_size, example=example)
    return SiteView(sites[site], network, calibration, (), gates or {}, tensors or {})
