"""Which residual branches are dropped, as data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scionet.choices.checking import Checked, CountOrZero, by_name

DepthName = Literal["branch_damage", "branch_elimination", "branch_scores"]
MeasureName = Literal["output", "task_loss"]


@dataclass(frozen=True, repr=False)
class DropBranches(Checked):
    """Drop given residual branches."""

    branches: Sequence[str]
    """Their names, as `discover` lists them in `Sites.branches`."""
    constants: bool = True
    """Put the mean of a branch on the calibration data in its place, for each channel; otherwise nothing."""


@dataclass(frozen=True, repr=False)
class BranchDamage(Checked):
    """Drop the branches that are missed least for the cost that they save, each of them measured alone."""

    count: CountOrZero | None = None
    """Branches to drop. None drops as many as let the predicted change of the output be least within the budget."""
    measure: MeasureName = "output"
    """How much a branch is missed: by the change of the output, or by the rise of the labelled task loss, on held-out
    examples."""
    constants: bool = True
    """Put the mean of a branch on the calibration data in its place, for each channel; otherwise nothing."""


@dataclass(frozen=True, repr=False)
class BranchElimination(Checked):
    """Drop the branch that is missed least for the cost that it saves, measure the others again, and so on."""

    count: CountOrZero | None = None
    """Branches to drop. None drops as many as let the predicted change of the output be least within the budget."""
    measure: MeasureName = "output"
    """How much a branch is missed: by the change of the output, or by the rise of the labelled task loss, on held-out
    examples."""
    constants: bool = True
    """Put the mean of a branch on the calibration data in its place, for each channel; otherwise nothing."""


@dataclass(frozen=True, repr=False)
class BranchScores(Checked):
    """Drop the branches whose units have the lowest scores by the method."""

    count: CountOrZero | None = None
    """Branches to drop. None drops as many as let the predicted change of the output be least within the budget."""
    over_units: Literal["mean", "sum"] = "mean"
    """The score of a branch: the mean or the sum of the scores of all units inside."""
    constants: bool = True
    """Put the mean of a branch on the calibration data in its place, for each channel; otherwise nothing."""


DepthRule = DropBranches | BranchDamage | BranchElimination | BranchScores
DEPTH = by_name(DropBranches, BranchDamage, BranchElimination, BranchScores)
