"""One row for each method and notable choice: what every contract test runs over. A new method is a new row."""

from dataclasses import dataclass, field
from typing import Any

from scionet.choices.depth import BranchDamage, BranchElimination, BranchScores, DropBranches
from scionet.choices.limits import Limits
from scionet.choices.methods import (
    Average,
    Forward,
    LeastSquares,
    LineSearch,
    OutputImitation,
    Score,
    Stochastic,
    TaskLoss,
)
from scionet.choices.repair import Reconstruct, Refit
from scionet.choices.resources import Resources
from scionet.choices.widths import Sensitivity, Widths
from scionet.methods.registry import SCORES, GivenMethod

LABELLED = (
    "taylor",
    "snip",
    "directional",
    "obd",
    "loss_preservation",
    "biased_loss",
    "grasp",
    "gradient_preservation",
)


@dataclass(frozen=True)
class Row:
    """A method with its choices.

    Attributes:
        method: As `prune` takes it.
        choices: What differs from the defaults with calibration data.
        budget: What may remain; None where the method stops by itself.
    """

    method: GivenMethod
    choices: dict[str, Any] = field(default_factory=dict)
    budget: str | None = "macs<=60%"

    def __str__(self) -> str:
        return " ".join([str(self.method), *(f"{key}={value}" for key, value in self.choices.items())])

    @property
    def name(self) -> str:
        """Registry name."""
        if isinstance(self.method, Forward):
            return "forward"
        return self.method.name if isinstance(self.method, Score) else str(self.method)

    @property
    def uses_labels(self) -> bool:
        return isinstance(getattr(self.method, "objective", None), TaskLoss) or self.name in LABELLED

    @property
    def is_random(self) -> bool:
        """Whether another seed may choose other units."""
        return self.name == "random" or isinstance(getattr(self.method, "candidates", None), Stochastic)

    @property
    def drops_branches(self) -> bool:
        return "depth" in self.choices


PLAIN = {"repair": ()}

ROWS = (
    Row("forward"),
    Row("forward", {"widths": "uniform", **PLAIN}),
    Row("forward", {"widths": "uniform"}),
    Row("forward", {"widths": "error_curves", "repair": (Refit(asymmetric=False),)}),
    Row(Forward(candidates=Stochastic(epsilon=0.3))),
    Row("forward", {"widths": Sensitivity(examples=8)}),
    Row(
        Forward(LeastSquares(partitions=2)),
        {"widths": "uniform", "resources": Resources(workers=2, backend="threading")},
    ),
    Row(Forward(LeastSquares(certify=True))),
    Row(Forward(passes=2)),
    Row("forward", {"repair": (Refit(shrinkage="held_out"),)}),
    Row(Score("energy", passes=3)),
    Row("forward", {"widths": Sensitivity(examples=8, widths_per_site=2, search=3)}),
    Row(Forward("line_search")),
    Row(Forward("line_search"), PLAIN),
    Row(Forward(LeastSquares(target="output"))),
    Row(Forward(LineSearch(target="output")), {"outputs": "squared", **PLAIN}),
    Row(Forward(LeastSquares(target="better")), {"widths": "uniform"}),
    Row(Forward(OutputImitation(keep_better=True)), PLAIN),
    Row(Forward("output_imitation")),
    Row(Forward(OutputImitation(scoring="taylor")), {"outputs": "squared", **PLAIN}),
    Row(Forward("average")),
    Row(Forward("average"), {"widths": "error_curves", **PLAIN}),
    Row(Forward(Average(repetition=True)), PLAIN),
    Row(Forward(TaskLoss(), Stochastic(sample_size=2))),
    Row(Forward(TaskLoss()), PLAIN),
    Row(Forward(TaskLoss(scoring="taylor")), PLAIN),
    Row(Forward(TaskLoss(fresh_batches=True)), PLAIN),
    Row(Forward(TaskLoss(repetition=True), Stochastic(epsilon=0.5)), PLAIN),
    Row(Forward(TaskLoss(tolerance=0.05)), PLAIN, budget=None),
    *(Row(name, {"widths": "uniform", **PLAIN}) for name in SCORES),
    *(Row(name) for name in SCORES),
    *(Row(name, {"widths": "uniform"}) for name in ("energy", "taylor")),
    Row("taylor", {"widths": "sensitivity", **PLAIN}),
    Row("l1", {"widths": "uniform", "repair": ("recalibrate",)}),
    Row("l1", {"repair": ("refit", Reconstruct(steps=3))}),
    Row(Forward("average"), {"repair": (Reconstruct(steps=3),)}),
    Row("taylor", {"widths": "uniform", "repair": (Reconstruct(steps=3, learning_rate=1e-4), "recalibrate")}),
    Row("l1", {"widths": "error_curves", **PLAIN}),
    *(Row(name, {"widths": "isomorphic", **PLAIN}) for name in ("l2", "taylor", "random")),
    Row("energy", {"widths": "isomorphic"}),
    Row("bn_scale", {"widths": "global", **PLAIN}),
    Row("forward", {"widths": Widths({"expand": 7, "join": 5})}, budget=None),
    Row("l1", {"outputs": "squared", **PLAIN}),
    Row("l1", {"widths": "uniform", "repair": (Refit(shortcuts=False),)}),
    Row("random", {"widths": "uniform", **PLAIN, "limits": Limits(round_to=2, min_units=3)}, budget="macs<=75%"),
    Row("forward", {"depth": ("block1",)}),
    Row("l1", {"depth": DropBranches(["block2"], constants=False), "widths": "uniform"}),
    Row("forward", {"depth": "branch_damage"}),
    Row("l1", {"depth": BranchDamage(), "widths": "whole"}),
    Row("forward", {"depth": BranchElimination(1), "repair": ("refit", "recalibrate", Reconstruct(steps=3))}),
    Row("energy", {"depth": BranchScores(1, "sum"), **PLAIN}),
    Row("forward", {"depth": ("block2",), "widths": Widths({"block1.conv1": 5, "stem": 7})}, budget=None),
)
