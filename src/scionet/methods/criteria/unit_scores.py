"""Baselines: a score says how much each unit is worth by itself; the highest stay.

A score is a short decorated function from a `SiteView` to one number per unit.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scionet.methods.contract import Ranker, SiteView
from scionet.network.calling import state_of
from scionet.network.sites import Sites
from scionet.selection.greedy import Selection, Status, replay
from scionet.selection.quadratic import LeastSquares
from scionet.selection.terms import Contributions
from scionet.torch_internals import BatchNormBase

FloatArray = NDArray[np.float64]
Score = Callable[[SiteView, np.random.Generator], FloatArray]


@dataclass(frozen=True)
class ScoreRanker(Ranker):
    """Takes units by descending score; ties go to the lowest index.

    Attributes:
        score: Says how much each unit is worth.
        from_moments: Whether it looks at `SiteView.terms`.
    """

    score: Score
    from_moments: bool = False

    @property
    def uses_moments(self) -> bool:
        """Whether the score does."""
        return self.from_moments

    @property
    def nested(self) -> bool:
        """Always: the scores do not depend on the width."""
        return True

    def worth(self, view: SiteView, rng: np.random.Generator) -> FloatArray:
        """The score."""
        return self.score(view, rng)

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """The `n_units` of highest score, with the curve of the refit's error where moments are known."""
        order = np.argsort(-self.score(view, rng), kind="stable")[:n_units].tolist()
        if view.terms:
            return replay(LeastSquares(view.terms), order)
        return Selection(tuple(sorted(order)), tuple(order), (), (1.0,) * len(order), Status.REPLAYED)


class MeasuredRanker(Ranker):
    """Takes units by descending scores that are measured in the dense network, once for all sites."""

    @property
    def nested(self) -> bool:
        """Always: the scores do not depend on the width."""
        return True

    @abstractmethod
    def measured(self, model: nn.Module, sites: Sites, batches: Iterable[Any]) -> Mapping[str, FloatArray]:
        """Scores ``(width,)`` by site.

        Args:
            model: The dense network.
            sites: Its sites.
            batches: Calibration data, with labels if the ranker uses them.
        """

    def ready(self, model: nn.Module, sites: Sites, batches: Iterable[Any]) -> ScoreRanker:
        """A ranker that knows the scores of all sites.

        Raises:
            PruneError: See `measured`.
        """
        found = self.measured(model, sites, batches)
        return ScoreRanker(lambda view, rng: found[view.site.name])

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """The `n_units` of highest score, measured anew."""
        return self.ready(view.model, view.sites, view.batches).rank(view, n_units, rng)


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

    Units near the geometric median of all can be replaced by the others, and go first.

    Source: He et al., *Filter Pruning via Geometric Median for Deep CNNs Acceleration*, CVPR 2019.
    """
    return _over_producers(view, lambda filters: torch.cdist(filters, filters).sum(1))


def _over_producers(view: SiteView, score: Callable[[Tensor], Tensor]) -> FloatArray:
    """The mean over producers of a score of their filters ``(N, weights)``, each relative to its own mean."""
    state = state_of(view.model)
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
    state = state_of(view.model)
    scales = []
    for slot in view.site.slots:
        module, _, key = slot.tensor.rpartition(".")
        owner = view.model.get_submodule(module)
        if key == "weight" and slot.dim == 0 and isinstance(owner, BatchNormBase):
            index = torch.from_numpy(slot.index)
            scales.append(state[slot.tensor].detach().abs().to("cpu", torch.float64)[index].mean(1))
    return torch.stack(scales).mean(0).numpy() if scales else l1(view, rng)


def energy(view: SiteView, rng: np.random.Generator) -> FloatArray:
    """Mean square of what each unit contributes to its consumers' outputs, each relative to the mean square of these.

    The diagonal of the Gram matrix that imitation works with, measured where imitation is: behind what was decided
    before, in the metric of the consumer's BatchNorm, and about the mean where a refit has an intercept.
    """
    return np.maximum(np.diag(Contributions.of(view.terms).gram), 0.0)
