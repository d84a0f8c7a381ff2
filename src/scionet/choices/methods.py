"""How the units of a site are chosen, as data: greedy forward selection with its objectives, or a score."""

from dataclasses import dataclass
from typing import Annotated, Literal

from scionet.choices.checking import Checked, Count, Range, by_name

TargetName = Literal["consumer", "output", "better"]
ScoringName = Literal["exact", "taylor"]
ObjectiveName = Literal["least_squares", "line_search", "average", "task_loss", "output_imitation"]
CandidatesName = Literal["exact", "stochastic"]


@dataclass(frozen=True, repr=False)
class LeastSquares(Checked):
    """Imitate with refitted weights: pick the unit that lowers the least-squares error most."""

    target: TargetName = "consumer"
    """The output to imitate: "consumer" is each consumer's; "output" is the network's, linearised once per site;
    "better" takes at each site the selection that changes the network's output less."""
    certify: bool = False
    """Report a lower bound on the share of the best possible error reduction that each site reaches."""
    partitions: Count = 1
    """Select in two rounds: within this many random parts of the units, then from the union of these selections. The
    parts are computed in parallel."""


@dataclass(frozen=True, repr=False)
class LineSearch(Checked):
    """Imitate with a convex combination of the units: pick the unit and step size that lower the error most."""

    target: TargetName = "consumer"
    """The output to imitate, as for least_squares."""


@dataclass(frozen=True, repr=False)
class Average(Checked):
    """Imitate with the plain average of the picked units."""

    target: TargetName = "consumer"
    """The output to imitate, as for least_squares."""
    repetition: bool = False
    """Allow a unit to be picked more than once."""


@dataclass(frozen=True, repr=False)
class TaskLoss(Checked):
    """Lower the labelled task loss of the whole network, with the average of the picked units (Ye et al., 2020)."""

    scoring: ScoringName = "exact"
    """Evaluate every candidate, or rank candidates by one gradient. The two are different algorithms."""
    fresh_batches: bool = False
    """Decide each pick on one calibration batch, in turn, and not on all of them."""
    repetition: bool = False
    """Allow a unit to be picked more than once."""
    tolerance: Annotated[float, Range(0)] | None = None
    """Stop at each site once the loss exceeds the dense loss by at most this much. Replaces the budget."""


@dataclass(frozen=True, repr=False)
class OutputImitation(Checked):
    """Imitate the output of the whole network with the average of the picked units, one evaluation per candidate."""

    scoring: ScoringName = "exact"
    """Evaluate every candidate, or rank candidates by one gradient."""
    fresh_batches: bool = False
    """Decide each pick on one calibration batch, in turn, and not on all of them."""
    repetition: bool = False
    """Allow a unit to be picked more than once."""
    keep_better: bool = False
    """Also imitate each consumer, and keep the selection that changes the network's output less."""


Objective = LeastSquares | LineSearch | Average | TaskLoss | OutputImitation
OBJECTIVES = by_name(LeastSquares, LineSearch, Average, TaskLoss, OutputImitation)


@dataclass(frozen=True, repr=False)
class Exact(Checked):
    """Evaluate every remaining unit at each step."""


@dataclass(frozen=True, repr=False)
class Stochastic(Checked):
    """Evaluate a random sample of the remaining units at each step."""

    epsilon: Annotated[float, Range(0, 1, inside=True)] = 0.1
    """The sample has (N / k) ln(1 / epsilon) units."""
    sample_size: Count | None = None
    """A fixed sample instead; the authors' code uses 50."""


CANDIDATES = by_name(Exact, Stochastic)


@dataclass(frozen=True, repr=False)
class Forward(Checked):
    """Greedy forward selection: start with no units and add the one that helps most."""

    objective: ObjectiveName | LeastSquares | LineSearch | Average | TaskLoss | OutputImitation = "least_squares"
    """The quantity that each picked unit improves most."""
    candidates: CandidatesName | Exact | Stochastic = "exact"
    """Which units are evaluated at each step."""
    passes: Count = 1
    """Walks through the network. Each walk after the first selects every site again, given the kept units of all
    others."""


@dataclass(frozen=True, repr=False)
class Score(Checked):
    """Keep the units with the highest scores."""

    name: str
    """Name of the score; `scionet.list_methods` shows them."""
    passes: Count = 1
    """Walks through the network, for scores that depend on the inputs of the consumers."""
