"""Competitors: the methods that the bench compares, with their widths and their repair."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from scionet.choices.checking import described
from scionet.choices.methods import Forward
from scionet.choices.repair import Reconstruct, RepairName, RepairStep
from scionet.choices.settings import GivenDepth, GivenWidths, depth_from, repair_from, widths_from
from scionet.choices.widths import Sensitivity
from scionet.methods.registry import GivenMethod, describe

PREDEFINED: Literal["predefined"] = "predefined"
"""In place of widths: those of the experiment's predefined architecture."""


@dataclass(frozen=True)
class Competitor:
    """A method with its widths and its repair, under one name.

    Attributes:
        label: Name in tables. Steps beyond the selection are joined to it by " + ".
        method: How units are chosen, as `scionet.prune` takes it.
        widths: How the budget is divided; None for the default, `PREDEFINED` for widths that the experiment gives.
        repair: How weights are repaired; None for the default.
        summary: Description in one line.
        depth: Which residual branches are dropped; None for what the experiment's settings say.
    """

    label: str
    method: GivenMethod
    widths: GivenWidths | Literal["predefined"] | None = None
    repair: tuple[RepairName | RepairStep, ...] | None = None
    summary: str = ""
    depth: GivenDepth | None = None

    @property
    def at_predefined(self) -> bool:
        """Whether the widths are those of the experiment's predefined architecture."""
        return self.widths == PREDEFINED

    @property
    def choices(self) -> dict[str, Any]:
        """Keyword arguments of `scionet.prune`."""
        depth = {} if self.depth is None else {"depth": self.depth}
        return {"method": self.method, "widths": self.widths, "repair": self.repair, **depth}

    @property
    def described(self) -> dict[str, Any]:
        """The choices as JSON."""
        repair = None if self.repair is None else [described(step) for step in repair_from(self.repair)]
        given = None if self.widths is None or self.at_predefined else described(widths_from(self.widths))
        widths = {"name": PREDEFINED} if self.at_predefined else given
        depth = {} if self.depth is None else {"depth": described(depth_from(self.depth))}
        return {"method": describe(self.method), "widths": widths, "repair": repair, **depth}


_GIVEN = " Widths of a predefined architecture."
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
    yield _at_predefined(Competitor("forward least squares", "forward", None, refit, _GREEDY))
    for label, (method, text) in _RANKINGS.items():
        yield Competitor(label, method, "uniform", (), text)
        yield Competitor(f"{label} + refit", method, "uniform", refit, text + _FITTED)
        if isinstance(method, str):
            yield Competitor(f"{label} + refit + error curves", method, "error_curves", refit, text + _FITTED + _CURVES)
            yield (repaired := _repaired(label, method, text))
            if method in ("random", "l1"):
                yield from _further(repaired)
                yield _at_predefined(Competitor(label, method, None, (), text))
                yield _at_predefined(Competitor(f"{label} + refit", method, None, refit, text + _FITTED))
            yield _recalibrated(label, method, text)
    for label, text in _CRITERIA.items():
        yield (repaired := _repaired(label, label, text))
        if label in _UNFITTED:
            yield Competitor(label, label, "uniform", (), text)
            yield from (_recalibrated(label, label, text), _searched(repaired))


def _at_predefined(competitor: Competitor) -> Competitor:
    """A competitor at the widths of a predefined architecture."""
    label, summary = f"{competitor.label} at predefined widths", competitor.summary + _GIVEN
    return replace(competitor, label=label, widths=PREDEFINED, summary=summary)


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
