"""Every setting of a method, as frozen dataclasses without torch: command line and TOML files are made from them."""

import math
from dataclasses import dataclass
from typing import Literal

from scionet.errors import InvalidSetting

Allocation = Literal["uniform", "curves", "measured", "isomorphic"]
ObjectiveName = Literal["least_squares", "line_search", "average", "loss"]
CandidateName = Literal["exact", "stochastic"]
ImitationName = Literal["local", "global", "better"]
ScoringName = Literal["exact", "taylor", "gauss_newton"]
MetricName = Literal["kl", "squared"]
BackendName = Literal["loky", "threading", "sequential", "ray", "dask"]


@dataclass(frozen=True)
class SweepSettings:
    """What every method shares: how widths are shared out, and how consumers are repaired."""

    refit: bool = True
    """Refit every consumer's weights on the kept units by least squares."""
    shrinkage: float | Literal["held_out"] | None = None
    """How far a refit is held back towards the dense weights, from 0 to 1; None decides by inputs and rows seen,
    'held_out' for each consumer by the error on one example in eight, which then take part in the fit."""
    allocation: Allocation | None = None
    """How the budget is shared out among sites: one density for all, by each site's error curve, by its measured effect
    on the network's output, or by scores that compete within sites of equal role, all such groups at one density. None
    measures where something is fitted to the calibration data, unless a path costs a network evaluation per candidate,
    and else takes one density."""
    metric: MetricName | None = None
    """How a change of the network's output is measured: divergence of its softmax, or squared error. None takes the
    divergence where the output has two or more classes (dimension 1)."""
    measured_examples: int = 256
    """Allocation 'measured': examples on which effects are measured; others, if they are twice as many, give errors."""
    measured_widths: int = 1
    """Allocation 'measured': at how many widths of each site effects are measured: at half of it, a quarter, ..."""
    width_trials: int = 0
    """Allocation 'measured': so many other ways to share the budget out are tried, each by a whole walk on
    `survey_examples`, and the one that moves the network's output least is kept."""
    round_to: int = 1
    """Kept widths are multiples of this (8 suits most hardware); numbers of heads are not rounded."""
    min_units: int = 1
    """Every site keeps at least this many units."""
    recalibrate: bool = False
    """Measure the statistics of every BatchNorm anew in the pruned network, at the end."""
    reconstruct_steps: int = 0
    """Fit all weights that remain to the dense network by so many gradient steps on the unlabelled images, at the end;
    one image in eight is then kept apart, and the state that is best on these is kept."""
    reconstruct_rate: float = 1e-3
    """Learning rate with which these steps begin; it falls to 0."""
    asymmetric: bool = True
    """Measure inputs in the network pruned so far and targets in the dense one, so that later layers repair damage."""
    sweeps: int = 1
    """Walks through the network. Each after the first chooses every site anew, knowing what all others keep: residual
    streams see the pruned network, and errors at outputs that were cut do not count."""
    shortcuts: bool = True
    """Let a consumer in front of a residual sum make up for the damage in the shortcut."""
    positions: int = 16
    """Output pixels that a convolution's moments are taken from, for each batch; all if there are fewer."""
    survey_examples: int = 1024
    """Examples from which error curves are measured and residual streams decided; everything else uses all."""
    memory_gib: float = 2.0
    """Activations of suspended forward passes beyond this wait on disk; what does not fit is not computed in advance
    for the evaluation of candidates, but for each of them."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidSetting: If a value is out of range; all problems are listed.
        """
        checks = {
            "allocation is 'uniform', 'curves', 'measured', 'isomorphic' or None": self.allocation
            in ("uniform", "curves", "measured", "isomorphic", None),
            "metric is 'kl', 'squared' or None": self.metric in ("kl", "squared", None),
            "shrinkage lies between 0 and 1, or is 'held_out' or None": self.shrinkage in (None, "held_out")
            or (isinstance(self.shrinkage, int | float) and 0 <= self.shrinkage <= 1),
            "round_to, min_units, positions, sweeps, survey_examples, measured_examples and measured_widths are whole "
            "numbers of 1 or more": all(
                isinstance(count, int) and count >= 1
                for count in (
                    self.round_to,
                    self.min_units,
                    self.positions,
                    self.sweeps,
                    self.survey_examples,
                    self.measured_examples,
                    self.measured_widths,
                )
            ),
            "sweeps above 1 go with refit": self.sweeps == 1 or self.refit,
            "reconstruct_steps and width_trials are whole numbers of 0 or more": all(
                isinstance(count, int) and count >= 0 for count in (self.reconstruct_steps, self.width_trials)
            ),
            "reconstruct_rate is a finite number above 0": 0 < self.reconstruct_rate < math.inf,
            "memory_gib is 0 or more": self.memory_gib >= 0,
        }
        refuse(self, checks)


@dataclass(frozen=True)
class ForwardSettings(SweepSettings):
    """Greedy forward selection."""

    objective: ObjectiveName = "least_squares"
    """What a unit must help with: imitate the consumer (least squares, line search, average), or the task loss."""
    imitation: ImitationName = "local"
    """What is imitated: each consumer's output; the network's; or at each site the one that moves the network's output
    less."""
    scoring: ScoringName | None = None
    """Task loss and global imitation: evaluate every candidate, rank candidates by one gradient (another algorithm, not
    a shortcut), or linearise the network's output once per site (global imitation). None takes 'exact' for the task
    loss and 'gauss_newton' for global imitation."""
    fresh_batches: bool = False
    """Scoring 'exact' and 'taylor': decide each pick on another calibration batch, in turns, and not on all."""
    repetition: bool = False
    """Whether a unit may be picked again (average and loss; line search always may)."""
    candidates: CandidateName = "exact"
    """Look at every candidate in each step, or at a random sample."""
    epsilon: float = 0.1
    """Stochastic candidates: the sample is (N / k) ln(1 / epsilon) units."""
    sample_size: int | None = None
    """Stochastic candidates: a fixed sample instead (the authors' code takes 50)."""
    partitions: int = 1
    """Least squares: choose in two rounds, first from so many random shares in parallel, then from what they chose."""
    workers: int | None = None
    """Processes that choose from the shares; None for as many as there are. Does not change what is chosen."""
    backend: BackendName = "loky"
    """What runs the shares: a backend of joblib."""
    certify: bool = False
    """Least squares: state how much of the best possible reduction of the error each site is certain to reach."""
    tolerance: float | None = None
    """Loss objective: stop at each site once the loss exceeds the dense loss by at most this much; needs no budget."""

    def __post_init__(self) -> None:
        """Check ranges and combinations.

        Raises:
            InvalidSetting: If a value is out of range; all problems are listed.
        """
        super().__post_init__()
        loss, through = self.objective == "loss", self.imitation != "local"
        checks = {
            "objective is 'least_squares', 'line_search', 'average' or 'loss'": self.objective
            in ("least_squares", "line_search", "average", "loss"),
            "scoring is 'exact', 'taylor', 'gauss_newton' or None": self.scoring
            in ("exact", "taylor", "gauss_newton", None),
            "scoring 'exact' or 'taylor' goes with objective 'loss', or with 'average' and an imitation other than "
            "'local'": self.scoring not in ("exact", "taylor") or loss or (self.objective == "average" and through),
            "scoring 'gauss_newton' goes with an imitation other than 'local'": self.scoring != "gauss_newton"
            or through,
            "fresh_batches goes with scoring 'exact' or 'taylor'": not self.fresh_batches
            or self.looks in ("exact", "taylor"),
            "imitation is 'local', 'global' or 'better'": self.imitation in ("local", "global", "better"),
            "imitation 'global' or 'better' goes with objective 'least_squares', 'line_search' or 'average'": not loss
            or not through,
            "sweeps above 1 go with imitation 'local'": self.sweeps == 1 or not through,
            "candidates is 'exact' or 'stochastic'": self.candidates in ("exact", "stochastic"),
            "epsilon lies inside (0, 1)": 0 < self.epsilon < 1,
            "sample_size is a whole number of 1 or more": self.sample_size is None
            or (isinstance(self.sample_size, int) and self.sample_size >= 1),
            "partitions is a whole number of 1 or more, workers too or None": isinstance(self.partitions, int)
            and self.partitions >= 1
            and (self.workers is None or (isinstance(self.workers, int) and self.workers >= 1)),
            "backend is 'loky', 'threading', 'sequential', 'ray' or 'dask'": self.backend
            in ("loky", "threading", "sequential", "ray", "dask"),
            "partitions above 1 and certify go with objective 'least_squares'": self.objective == "least_squares"
            or (self.partitions == 1 and not self.certify),
            "repetition goes with objective 'average' or 'loss'": not self.repetition
            or self.objective in ("average", "loss"),
            "tolerance goes with objective 'loss' and is 0 or more": self.tolerance is None
            or (loss and self.tolerance >= 0),
            "round_to, min_units and allocation go with a budget, not with a tolerance": self.tolerance is None
            or (self.round_to, self.min_units, self.allocation) == (1, 1, None),
            "allocation 'curves' or 'measured' needs an objective other than 'loss'": not loss
            or self.allocation in ("uniform", None),
        }
        refuse(self, checks)

    @property
    def looks(self) -> ScoringName | None:
        """How the whole network is looked at; None if only the consumers are."""
        if self.objective == "loss":
            return self.scoring or "exact"
        return None if self.imitation == "local" else self.scoring or "gauss_newton"


@dataclass(frozen=True)
class ScoreSettings(SweepSettings):
    """A baseline: the units of highest score."""

    refit: bool = False
    """Refit every consumer's weights on the kept units by least squares: the honest control of greedy selection."""


def refuse(settings: object, checks: dict[str, bool]) -> None:
    """Raise one error that lists every check that failed.

    Raises:
        InvalidSetting: If one did.
    """
    failed = [text for text, passed in checks.items() if not passed]
    if failed:
        raise InvalidSetting(f"{'; '.join(failed)}. Given: {settings}")
