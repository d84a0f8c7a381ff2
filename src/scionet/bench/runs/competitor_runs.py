"""Runs of competitors: each prunes a network, and the result is measured and recorded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from scionet.bench.experiment.competitors import Competitor
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import Outcome, RunRecord, RunSpec, SiteRecord, encode_answers, thin
from scionet.budget.allocation.ladder import in_percent
from scionet.budget.budget import Budget
from scionet.budget.costs import Cost
from scionet.choices.widths import Widths
from scionet.errors import BudgetExceeded
from scionet.network.calling import Batch
from scionet.network.plan import Choice
from scionet.pruning import PruneResult, prune_each
from scionet.training.accuracy import correct_predictions

Labelled = Iterable[tuple[Batch, Tensor]]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A network and data on which competitors are compared.

    Attributes:
        experiment: Name of the experiment.
        network: Name of the network.
        dataset: Name of the data.
        model: The dense network.
        example_inputs: Inputs for it.
        test: Labelled batches on which accuracy is measured.
        dense: Cost and accuracy of the dense network on these.
        command: The command that reproduces the records.
        bf16: Whether accuracy is measured in bfloat16, that of the dense network included.
    """

    experiment: str
    network: str
    dataset: str
    model: nn.Module
    example_inputs: Batch
    test: Labelled
    dense: Outcome
    command: str
    bf16: bool = False

    def run(
        self, competitor: Competitor, calibration: Iterable[Any], budget: str, seed: int, **shared: Any
    ) -> "CompetitorRun":
        """Prune to one budget and measure; see `run_each`."""
        return next(iter(self.run_each(competitor, calibration, [budget], seed, **shared)))

    def run_each(
        self, competitor: Competitor, calibration: Iterable[Any], budgets: Sequence[str], seed: int, **shared: Any
    ) -> "Iterator[CompetitorRun]":
        """Prune to several budgets and measure.

        Args:
            competitor: The method.
            calibration: Batches, with labels for a competitor that uses them.
            budgets: The budgets.
            seed: Seed of the method.
            **shared: Keyword arguments of `prune` that all competitors share, such as ``resources``.

        Raises:
            BudgetExceeded: If the competitor's widths are given, and cost more than a budget.
        """
        fixed = isinstance(competitor.widths, Widths)
        results = prune_each(
            self.model,
            calibration,
            [None if fixed else budget for budget in budgets],
            example_inputs=self.example_inputs,
            seed=seed,
            progress=False,
            **{**shared, **competitor.choices},
        )
        for budget, result in zip(budgets, results, strict=True):
            if fixed:
                _refuse_costly(budget, result)
            asked = (self.experiment, self.network, self.dataset, competitor.label, budget, seed)
            spec = RunSpec(*asked, dict(result.plan.settings))
            yield CompetitorRun(result, self._record(spec, competitor, result))

    def _record(self, spec: RunSpec, competitor: Competitor, result: PruneResult) -> RunRecord:
        pruned, answers = outcome(result.model, result.report.pruned, self.test, self.bf16)
        return RunRecord(
            spec=spec,
            dense=self.dense,
            pruned=pruned,
            seconds=sum(result.report.seconds.values()),
            sites=tuple(_site(choice) for choice in result.plan.choices),
            provenance=Provenance.here(datetime.now(UTC).date().isoformat(), self.command, torch.get_num_threads()),
            max_relative_difference=result.report.difference,
            dense_hash=result.plan.dense_hash,
            plan_hash=result.plan.identity,
            summary=competitor.summary,
            notes=(*_dropped(result), *(["accuracy measured in bfloat16 (autocast)"] if self.bf16 else [])),
            answers=answers,
        )


@dataclass(frozen=True, eq=False)
class CompetitorRun:
    """A pruned network and its record."""

    result: PruneResult
    record: RunRecord


def outcome(model: nn.Module, cost: Cost, test: Labelled, bf16: bool = False) -> tuple[Outcome, str]:
    """Return the cost and accuracy of a network, and which test examples it classifies correctly (`encode_answers`)."""
    right = correct_predictions(model, test, bf16).cpu().numpy()
    return Outcome(cost.macs, cost.params, int(right.sum()), len(right)), encode_answers(right)


def _refuse_costly(budget: str, result: PruneResult) -> None:
    """Refuse given widths that cost more than the budget that they are recorded under.

    Raises:
        BudgetExceeded: If they do.
    """
    limit, dense, pruned = Budget.of(budget), result.report.dense, result.report.pruned
    if not limit.met(pruned, dense):
        raise BudgetExceeded(
            f"the given widths cost {in_percent(pruned, dense, limit.quantities)}, more than {budget}; record them "
            "under a budget that they meet"
        )


def _dropped(result: PruneResult) -> list[str]:
    """A note that names the dropped branches, if there are any."""
    names = [*result.report.dropped]
    return [f"residual branches dropped: {', '.join(names)}"] if names else []


def _site(choice: Choice) -> SiteRecord:
    """The record of a choice, with the error after each newly picked unit."""
    curve: dict[int, float] = {}
    seen: set[int] = set()
    for unit, value in zip(choice.order, choice.values, strict=False):
        seen.add(unit)
        curve[len(seen)] = -value
    return SiteRecord(choice.site, choice.width, len(choice.kept), thin(sorted(curve.items())))
