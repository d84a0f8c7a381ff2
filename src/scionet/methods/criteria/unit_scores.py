"""Scores of units. The units with the highest scores stay.

A score is a short decorated function from a `SiteView` to one number per unit.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scionet.errors import InvalidSetting
from scionet.methods.calibration.calibration import Calibration
from scionet.methods.contract import Ranker, SiteView
from scionet.methods.criteria.labelled_ranker import LabelledRanker
from scionet.methods.problem import Problem
from scionet.network.network import Network
from scionet.selection.greedy import Selection, Status, replay
from scionet.selection.quadratic import LeastSquaresObjective
from scionet.selection.terms import Contributions
from scionet.torch_internals import BatchNormBase
from scionet.typing import FloatArray

Score = Callable[[SiteView, np.random.Generator], FloatArray]


@dataclass(frozen=True)
class ScoreRanker(LabelledRanker):
    """Ranks units by descending score; among equals, the lowest index comes first.

    Attributes:
        score: The score of each unit.
        label: Name in plans and records.
        moments: Whether the score reads `SiteView.terms`.
        labels: Whether the score reads the labels of `SiteView.calibration`.
        data: Whether the score reads the inputs of `SiteView.calibration`.
        n_passes: Walks through the network.
    """

    score: Score
    label: str
    moments: bool = False
    labels: bool = False
    data: bool = False
    n_passes: int = 1

    @property
    def uses_moments(self) -> bool:
        """Whether the score does."""
        return self.moments

    @property
    def uses_labels(self) -> bool:
        """Whether the score does."""
        return self.labels

    @property
    def uses_data(self) -> bool:
        """Whether the score does."""
        return self.data or self.moments or self.labels

    @property
    def nested(self) -> bool:
        """Always: the scores do not depend on the width."""
        return True

    def scores(self, view: SiteView, rng: np.random.Generator) -> FloatArray:
        """The score, checked.

        Raises:
            InvalidSetting: If it is not one finite number for each unit.
        """
        given = self.score(view, rng)
        wanted = (
            f"score {self.name!r} must return one finite number for each of the {view.site.width} units of site "
            f"{view.site.name!r}; it returned"
        )
        try:
            plain = given.detach().cpu() if isinstance(given, Tensor) else given
            found = np.asarray(plain, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidSetting(f"{wanted} a {type(given).__name__} that is no array of numbers ({error})") from error
        if found.shape != (view.site.width,) or not np.isfinite(found).all():
            n_bad = np.count_nonzero(~np.isfinite(found))
            raise InvalidSetting(f"{wanted} an array of shape {found.shape} with {n_bad} NaN or infinite values")
        return found

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """The `n_units` of highest score, with the curve of the refit's error where moments are known."""
        order = np.argsort(-self.scores(view, rng), kind="stable")[:n_units].tolist()
        if view.terms:
            return replay(LeastSquaresObjective(view.terms), order)
        return Selection(tuple(sorted(order)), tuple(order), (), (1.0,) * len(order), Status.REPLAYED)


class MeasuredRanker(Ranker):
    """Ranks units by descending scores, measured in the dense network once for all sites."""

    @property
    def nested(self) -> bool:
        """Always: the scores do not depend on the width."""
        return True

    @property
    def uses_data(self) -> bool:
        """Always, unless a subclass needs none."""
        return True

    @abstractmethod
    def measured(self, network: Network, calibration: Calibration) -> Mapping[str, FloatArray]:
        """Scores ``(width,)`` by site.

        Args:
            network: The dense network.
            calibration: The calibration examples, with labels if the ranker uses them.
        """

    def ready(self, problem: Problem) -> ScoreRanker:
        """A ranker that knows the scores of all sites.

        Raises:
            PruneError: See `measured`.
        """
        return self._with_scores(self.measured(problem.network, problem.calibration))

    def _with_scores(self, found: Mapping[str, FloatArray]) -> ScoreRanker:
        return ScoreRanker(lambda view, rng: found[view.site.name], self.name)

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """The `n_units` of highest score, measured for this site."""
        return self._with_scores(self.measured(view.network, view.calibration)).rank(view, n_units, rng)


def score(
    function: Score | None = None,
    *,
    name: str | None = None,
    moments: bool = False,
    labels: bool = False,
    data: bool = False,
) -> Any:
    """Make a ranker from a function of a `SiteView` and a random generator that returns one number for each unit.

    ``prune(..., method=function)`` does the same for a function that needs no moments and no data.

    Args:
        function: The score.
        name: Name in plans and records; the function's name by default.
        moments: The score reads `SiteView.terms`, the regression problems of the site's consumers.
        labels: The score reads the labels of `SiteView.calibration`.
        data: The score reads the inputs of `SiteView.calibration`.

    Returns:
        A ranker for ``prune(..., method=...)``; without a function, a decorator that makes one.

    Raises:
        InvalidSetting: If the function takes other arguments.
    """

    def made(function: Score) -> ScoreRanker:
        _refuse_other_arguments(function)
        label = name or getattr(function, "__name__", type(function).__name__)
        return ScoreRanker(function, label, moments, labels, data)

    return made if function is None else made(function)


def _refuse_other_arguments(function: Score) -> None:
    """Refuse a function that cannot be called as a score.

    Raises:
        InvalidSetting: If it does not take two arguments.
    """
    try:
        signature(function).bind(None, None)
    except TypeError as error:
        raise InvalidSetting(
            f"a score is called with a SiteView and a random generator; {function!r:.80} does not take them ({error})"
        ) from error
    except ValueError:  # built-in functions have no signature
        return


def random(view: SiteView, rng: np.random.Generator) -> FloatArray:
    """Uniformly random scores."""
    return rng.random(view.site.width)


def l1(view: SiteView, rng: np.random.Generator) -> FloatArray:
    """L1 norm of the weights that produce each unit, averaged over producers.

    Source: Li et al., *Pruning Filters for Efficient ConvNets*, ICLR 2017, which sums within one convolution; with
    several producers (residual streams) each counts relative to its own mean.
    """
    return _over_producers(view, lambda filters: filters.abs().sum(1))


def l2(view: SiteView, rng: np.random.Generator) -> FloatArray:
    """L2 norm of the weights that produce each unit, averaged over producers as in `l1`.

    Source: He et al., *Soft Filter Pruning for Accelerating Deep CNNs*, IJCAI 2018 (the criterion alone).
    """
    return _over_producers(view, lambda filters: filters.norm(dim=1))


def fpgm(view: SiteView, rng: np.random.Generator) -> FloatArray:
    """Sum of the distances from each unit's producing weights to those of all others, averaged over producers.

    Units near the geometric median of all can be replaced by others, so they are removed first.

    Source: He et al., *Filter Pruning via Geometric Median for Deep CNNs Acceleration*, CVPR 2019.
    """
    return _over_producers(view, lambda filters: torch.cdist(filters, filters).sum(1))


def _over_producers(view: SiteView, score: Callable[[Tensor], Tensor]) -> FloatArray:
    """The mean over producers of a score of their filters ``(N, weights)``, each relative to its own mean."""
    state = view.network.state
    scores = []
    for producer in view.site.producers:
        index = torch.from_numpy(view.site.slot(producer, 0).index)
        filters = state[producer].detach().to("cpu", torch.float64)[index].flatten(1)
        found = score(filters)
        scores.append(found / found.mean().clamp_min(torch.finfo(torch.float64).tiny))
    return torch.stack(scores).mean(0).numpy()


def bn_scale(view: SiteView, rng: np.random.Generator) -> FloatArray:
    """Absolute BatchNorm scale of each unit, averaged over the BatchNorms of the site.

    Source: Liu et al., *Learning Efficient Convolutional Networks through Network Slimming*, ICCV 2017 (without its
    sparse training). A site without BatchNorm falls back to `l1`.
    """
    state = view.network.state
    scales = []
    for slot in view.site.slots:
        module, _, key = slot.tensor.rpartition(".")
        owner = view.network.model.get_submodule(module)
        if key == "weight" and slot.dim == 0 and isinstance(owner, BatchNormBase):
            index = torch.from_numpy(slot.index)
            scales.append(state[slot.tensor].detach().abs().to("cpu", torch.float64)[index].mean(1))
    return torch.stack(scales).mean(0).numpy() if scales else l1(view, rng)


def energy(view: SiteView, rng: np.random.Generator) -> FloatArray:
    """Mean square of each unit's contribution to its consumers' outputs, relative to the mean square of these outputs.

    This is the diagonal of the Gram matrix of imitation. It is measured in the same way: in the network pruned so far,
    in the metric of the consumer's BatchNorm, and around the mean where a refit has an intercept.
    """
    return np.maximum(np.diag(Contributions.from_terms(view.terms).gram), 0.0)
