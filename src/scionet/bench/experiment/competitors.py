"""One run of a comparison: prune a network with a method, measure what came out, record it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import Outcome, RunRecord, RunSpec, SiteRecord, packed, thin
from scionet.budget.costs import Cost
from scionet.methods.contract import Method
from scionet.network.calling import Batch
from scionet.network.plan import Choice
from scionet.pruning import PruneResult, prune_each
from scionet.training.accuracy import correct_predictions

Labelled = Iterable[tuple[Batch, Tensor]]


@dataclass(frozen=True)
class Competitor:
    """A method with its settings, under the name that tables give it.

    Attributes:
        label: Name in tables; a refit is set off by " + ".
        method: Registry name, or the method itself, which carries its own settings.
        settings: The method's settings.
        summary: What it does, in one line.
    """

    label: str
    method: str | Method
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    summary: str = ""


_RECALIBRATED = " Then BatchNorm statistics are measured anew."
_FITTED = " Then every consumer's weights are refitted by least squares."
_SHARED_OUT = " Widths by the sites' error curves instead of one density for all."
_MEASURED = " Widths by the measured effect of each site on the network's output."
_TRIED = " The best of 40 ways to share the budget out, each tried by a whole walk and judged on other images."
_RECONSTRUCTED = " Then all weights learn from the dense network's outputs and features, 300 steps without labels."
_RANKINGS = {
    "forward average": (
        "forward",
        {"objective": "average"},
        "Greedy: the unit that, added to the plain average of those picked, best imitates the consumer's output.",
    ),
    "forward line search": (
        "forward",
        {"objective": "line_search"},
        "Greedy: the unit and the step towards it that best imitate the consumer's output.",
    ),
    "random": ("random", {}, "Units at random."),
    "l1": ("l1", {}, "Units whose producing weights have the largest L1 norm."),
    "bn_scale": ("bn_scale", {}, "Units with the largest BatchNorm scale."),
}
_CRITERIA = {
    "l2": "Units whose producing weights have the largest L2 norm.",
    "fpgm": "Units whose producing weights are farthest from all others (geometric median).",
    "energy": "Units that contribute most to their consumers' output, each by itself.",
    "thinet": "Units go whose removal changes the consumers' output least, given those that went before.",
    "lasso": "Units with the largest multipliers under an L1 penalty on what they add to the consumers' output.",
    "taylor": "Units whose gates have the steepest squared slope of the labelled task loss.",
}
_UNFITTED = ("l2", "fpgm", "taylor")
"""Those whose papers fit nothing."""
_GREEDY = (
    "Greedy: the unit that lowers most the error of the consumer's output after refitting its weights by least "
    "squares; asymmetric targets, shortcut compensation."
)


def _competitors() -> Iterator[Competitor]:
    """Every method: at one density, plain, re-calibrated and refitted; refitted at widths by curves and effects."""
    uniform, curves, measured = ({"allocation": name} for name in ("uniform", "curves", "measured"))
    yield Competitor("forward least squares", "forward", uniform, _GREEDY)
    yield Competitor("forward least squares + curves", "forward", curves, _GREEDY + _SHARED_OUT)
    yield (greedy := Competitor("forward least squares + measured", "forward", measured, _GREEDY + _MEASURED))
    yield from _further(greedy)
    for label, (method, settings, text) in _RANKINGS.items():
        plain, refit = {**settings, "refit": False}, {**settings, "refit": True}
        yield Competitor(label, method, {**plain, **uniform}, text)
        yield Competitor(f"{label} + least squares", method, {**refit, **uniform}, text + _FITTED)
        if method != "forward":
            yield Competitor(
                f"{label} + least squares + curves", method, {**refit, **curves}, text + _FITTED + _SHARED_OUT
            )
            yield (repaired := _repaired(label, method, text))
            if method in ("random", "l1"):
                yield from _further(repaired)
            yield _recalibrated(label, method, text)
    for label, text in _CRITERIA.items():
        yield (repaired := _repaired(label, label, text))
        if label in _UNFITTED:
            yield Competitor(label, label, {"refit": False, **uniform}, text)
            yield from (_recalibrated(label, label, text), _tried(repaired))


def _recalibrated(label: str, method: str, text: str) -> Competitor:
    """A criterion at one density with the cheapest repair."""
    settings = {"refit": False, "allocation": "uniform", "recalibrate": True}
    return Competitor(f"{label} + re-calibration", method, settings, text + _RECALIBRATED)


def _repaired(label: str, method: str, text: str) -> Competitor:
    """A criterion with the same widths and the same repair as greedy selection: the honest control."""
    settings = {"refit": True, "allocation": "measured"}
    return Competitor(f"{label} + least squares + measured", method, settings, text + _FITTED + _MEASURED)


def _further(competitor: Competitor) -> Iterator[Competitor]:
    """What may be done beyond measured widths and refits, one by one and together."""
    yield from (_reconstructed(competitor), _tried(competitor), _reconstructed(_tried(competitor)))


def _tried(competitor: Competitor) -> Competitor:
    """A competitor that tries other widths, as many as all who do."""
    return _with(competitor, "trials", {"width_trials": 40}, _TRIED)


def _reconstructed(competitor: Competitor) -> Competitor:
    """A competitor whose weights are also fitted by gradient: the same steps for all."""
    return _with(competitor, "reconstruction", {"reconstruct_steps": 300}, _RECONSTRUCTED)


def _with(competitor: Competitor, more: str, settings: Mapping[str, Any], text: str) -> Competitor:
    """A competitor with further settings, and what they are called."""
    return replace(
        competitor,
        label=f"{competitor.label} + {more}",
        settings={**competitor.settings, **settings},
        summary=competitor.summary + text,
    )


COMPETITORS = tuple(_competitors())
FORWARD = next(competitor for competitor in COMPETITORS if competitor.label == "forward least squares + measured")
"""The one that figures bring out: what `prune` does by default."""
LOSS = Competitor(
    "forward task loss",
    "forward",
    {"objective": "loss", "refit": False},
    "Greedy: the unit that lowers the labelled task loss most, weights re-averaged (ICML 2020).",
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What all competitors share.

    Attributes:
        experiment: Name of the experiment.
        network: Name of the network.
        dataset: Name of the data.
        model: The dense network.
        example_inputs: What it is called on.
        test: Labelled batches to measure accuracy on.
        dense: What the dense network is worth there.
        command: The command that makes the records again.
        bf16: Whether accuracy is measured in bfloat16, of the dense network too.
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
            budgets: What may remain.
            seed: Seed of the method.
            **shared: Settings that all competitors share.
        """
        settings = {**shared, **competitor.settings}
        results = prune_each(
            self.model,
            calibration,
            budgets,
            example_inputs=self.example_inputs,
            method=competitor.method,
            seed=seed,
            **settings,
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
    """What a network costs and how often it is right; and which test examples it got right, as `packed` writes them."""
    right = correct_predictions(model, test, bf16).cpu().numpy()
    return Outcome(cost.macs, cost.params, int(right.sum()), len(right)), packed(right)


def _site(choice: Choice) -> SiteRecord:
    """A choice with its curve: the error whenever another unit had come in."""
    curve: dict[int, float] = {}
    seen: set[int] = set()
    for unit, value in zip(choice.order, choice.values, strict=False):
        seen.add(unit)
        curve[len(seen)] = -value
    return SiteRecord(choice.site, choice.width, len(choice.kept), thin(sorted(curve.items())))
