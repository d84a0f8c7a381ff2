"""Competitors: prunes a network with each, measures the result, and records it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import Outcome, RunRecord, RunSpec, SiteRecord, encode_answers, thin
from scionet.budget.costs import Cost
from scionet.choices.checking import described
from scionet.choices.methods import Forward
from scionet.choices.repair import Reconstruct, RepairName, RepairStep
from scionet.choices.settings import GivenWidths, repair_from, widths_from
from scionet.choices.widths import Sensitivity
from scionet.methods.registry import GivenMethod, describe
from scionet.network.calling import Batch
from scionet.network.plan import Choice
from scionet.pruning import PruneResult, prune_each
from scionet.training.accuracy import correct_predictions

Labelled = Iterable[tuple[Batch, Tensor]]


@dataclass(frozen=True)
class Competitor:
    """A method with its widths and its repair, under one name.

    Attributes:
        label: Name in tables. Steps beyond the selection are joined to it by " + ".
        method: How units are chosen, as `scionet.prune` takes it.
        widths: How the budget is divided; None for the default.
        repair: How weights are repaired; None for the default.
        summary: Description in one line.
    """

    label: str
    method: GivenMethod
    widths: GivenWidths | None = None
    repair: tuple[RepairName | RepairStep, ...] | None = None
    summary: str = ""

    @property
    def choices(self) -> dict[str, Any]:
        """Keyword arguments of `scionet.prune`."""
        return {"method": self.method, "widths": self.widths, "repair": self.repair}

    @property
    def described(self) -> dict[str, Any]:
        """The choices as JSON."""
        repair = None if self.repair is None else [described(step) for step in repair_from(self.repair)]
        widths = None if self.widths is None else described(widths_from(self.widths))
        return {"method": describe(self.method), "widths": widths, "repair": repair}


_RECALIBRATED = " Then BatchNorm statistics are re-measured."
_FITTED = " Then every consumer's weights are refitted by least squares."
_CURVES = " Widths by the error curves of the sites instead of one density for all."
_SENSITIVITY = " Widths by the measured sensitivity of the network's output to each site."
_SEARCHED = " The best of 40 ways to divide the budget, each tried by a whole walk and judged on other images."
_RECONSTRUCTED = (
    " Then all weights are trained to match the dense network's outputs and features, 300 steps, no labels."
)
_RANKINGS: dict[str, tuple[GivenMethod, str]] = {
    "forward average": (
        Forward("average"),
        "Greedy: the unit that, added to the plain average of those picked, best imitates the consumer's output.",
    ),
    "forward line search": (
        Forward("line_search"),
        "Greedy: the unit and the step towards it that best imitate the consumer's output.",
    ),
    "random": ("random", "Units at random."),
    "l1": ("l1", "Units whose producing weights have the largest L1 norm."),
    "bn_scale": ("bn_scale", "Units with the largest BatchNorm scale."),
}
_CRITERIA = {
    "l2": "Units whose producing weights have the largest L2 norm.",
    "fpgm": "Units whose producing weights are farthest from all others (geometric median).",
    "energy": "Units that contribute most to their consumers' output, each by itself.",
    "thinet": "One after the other, the unit is removed whose removal changes the consumers' output least.",
    "lasso": "Units with the largest multipliers under an L1 penalty on what they add to the consumers' output.",
    "taylor": "Units whose gates have the steepest squared slope of the labelled task loss.",
}
_UNFITTED = ("l2", "fpgm", "taylor")
"""Criteria whose papers have no refit; they also compete without one."""
_GREEDY = (
    "Greedy: the unit that most lowers the error of the consumer's output after refitting its weights by least "
    "squares; asymmetric targets, shortcut compensation."
)


def _competitors() -> Iterator[Competitor]:
    """Every method at one density (plain, recalibrated and refitted), and refitted at other widths."""
    refit = ("refit",)
    yield Competitor("forward least squares", "forward", "uniform", refit, _GREEDY)
    yield Competitor("forward least squares + error curves", "forward", "error_curves", refit, _GREEDY + _CURVES)
    greedy = Competitor("forward least squares + sensitivity", "forward", "sensitivity", refit, _GREEDY + _SENSITIVITY)
    yield greedy
    yield from _further(greedy)
    for label, (method, text) in _RANKINGS.items():
        yield Competitor(label, method, "uniform", (), text)
        yield Competitor(f"{label} + refit", method, "uniform", refit, text + _FITTED)
        if isinstance(method, str):
            yield Competitor(f"{label} + refit + error curves", method, "error_curves", refit, text + _FITTED + _CURVES)
            yield (repaired := _repaired(label, method, text))
            if method in ("random", "l1"):
                yield from _further(repaired)
            yield _recalibrated(label, method, text)
    for label, text in _CRITERIA.items():
        yield (repaired := _repaired(label, label, text))
        if label in _UNFITTED:
            yield Competitor(label, label, "uniform", (), text)
            yield from (_recalibrated(label, label, text), _searched(repaired))


def _recalibrated(label: str, method: str, text: str) -> Competitor:
    """A criterion at one density with the cheapest repair."""
    return Competitor(f"{label} + recalibration", method, "uniform", ("recalibrate",), text + _RECALIBRATED)


def _repaired(label: str, method: str, text: str) -> Competitor:
    """A criterion with the same widths and the same repair as greedy selection: the fair control."""
    return Competitor(
        f"{label} + refit + sensitivity", method, "sensitivity", ("refit",), text + _FITTED + _SENSITIVITY
    )


def _further(competitor: Competitor) -> Iterator[Competitor]:
    """The further steps, reconstruction and search, one by one and together."""
    yield from (_reconstructed(competitor), _searched(competitor), _reconstructed(_searched(competitor)))


def _searched(competitor: Competitor) -> Competitor:
    """A competitor that also searches for widths, with the same number of tries for all."""
    return replace(
        competitor,
        label=f"{competitor.label} + search",
        widths=Sensitivity(search=40),
        summary=competitor.summary + _SEARCHED,
    )


def _reconstructed(competitor: Competitor) -> Competitor:
    """A competitor whose weights are also fitted by gradient, with the same number of steps for all."""
    return replace(
        competitor,
        label=f"{competitor.label} + reconstruction",
        repair=(*(competitor.repair or ()), Reconstruct(steps=300)),
        summary=competitor.summary + _RECONSTRUCTED,
    )


COMPETITORS = tuple(_competitors())
FORWARD = next(competitor for competitor in COMPETITORS if competitor.label == "forward least squares + sensitivity")
"""The competitor that figures emphasise: what `prune` does by default."""
LOSS = Competitor(
    "forward task loss",
    Forward("task_loss"),
    "uniform",
    (),
    "Greedy: the unit that lowers the labelled task loss most, weights re-averaged (ICML 2020).",
)


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
        """
        results = prune_each(
            self.model,
            calibration,
            budgets,
            example_inputs=self.example_inputs,
            seed=seed,
            progress=False,
            **{**shared, **competitor.choices},
        )
        for budget, result in zip(budgets, results, strict=True):
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
            notes=("accuracy measured in bfloat16 (autocast)",) if self.bf16 else (),
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


def _site(choice: Choice) -> SiteRecord:
    """The record of a choice, with the error after each newly picked unit."""
    curve: dict[int, float] = {}
    seen: set[int] = set()
    for unit, value in zip(choice.order, choice.values, strict=False):
        seen.add(unit)
        curve[len(seen)] = -value
    return SiteRecord(choice.site, choice.width, len(choice.kept), thin(sorted(curve.items())))
