"""A ranker that uses a selector, learned from greedy selections on other networks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from scionet.choices.limits import Limits
from scionet.choices.methods import Forward
from scionet.choices.repair import Refit
from scionet.choices.resources import Resources
from scionet.choices.settings import Settings
from scionet.differentiable.channel_selector import ChannelSelector
from scionet.errors import InvalidSetting
from scionet.methods.contract import Ranker, SiteView
from scionet.methods.criteria.unit_scores import bn_scale, l1
from scionet.methods.greedy.forward import ForwardRanker
from scionet.methods.refit.survey import survey, surveying
from scionet.network.calling import Batch
from scionet.selection.greedy import Selection, replay
from scionet.selection.quadratic import LeastSquaresObjective
from scionet.selection.terms import Contributions
from scionet.typing import FloatArray

STATISTICS = ("l1", "bn_scale", "energy", "alone", "agreement", "mean correlation", "largest correlation")
"""The statistics of each unit that a selector reads; see `statistics`."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """The selection at one site, for a selector to learn from.

    Attributes:
        site: Name of the site.
        statistics: Statistics of its units, shape ``(N, len(STATISTICS))``.
        order: All units in the order in which they were taken.
    """

    site: str
    statistics: FloatArray
    order: tuple[int, ...]


def lessons(
    model: nn.Module,
    calibration_data: Iterable[Any],
    example_inputs: Batch,
    *,
    teacher: Forward = Forward(),  # noqa: B008  frozen
    limits: Limits = Limits(),  # noqa: B008  frozen
    resources: Resources = Resources(),  # noqa: B008  frozen
    seed: int = 0,
) -> Iterator[Lesson]:
    """Run greedy selection at every site of the dense network, as training data for a selector.

    Args:
        model: The trained network.
        calibration_data: Batches like `example_inputs`; what they hold beyond that is ignored.
        example_inputs: What the model is called on.
        teacher: The greedy selection, which must not need labels.
        limits: Layers whose channels stay.
        resources: How many examples and positions are sampled.
        seed: Root of all randomness.

    Raises:
        InvalidSetting: If the teacher needs labels.
    """
    settings = Settings(repair=(Refit(),), limits=limits, resources=resources)
    ranker = ForwardRanker(teacher, settings)
    if ranker.uses_labels:
        raise InvalidSetting("the teacher must not need labels; choose an objective other than 'task_loss'")
    run = surveying(model, calibration_data, example_inputs, ranker, settings, seed)
    for view, _ in survey(run, run.surveyed, run.sites):
        path = ranker.rank(view, view.site.width, run.generators("rank", view.site.name))
        yield Lesson(view.site.name, statistics(view), tuple(dict.fromkeys(path.order)))


def statistics(view: SiteView) -> FloatArray:
    """Compute cheap statistics of the units of a site, each relative to the site's mean, so that sites can be compared.

    The statistics of a unit are:

    - the L1 norm of its producing weights, and its BatchNorm scale;
    - the mean square of its contribution to its consumers, and how much of their output it explains alone, refitted;
    - the product of its contribution and that of all units, divided by its mean size;
    - the mean and the largest absolute correlation of its contribution with those of the other units.

    All but the products are logarithms or correlations.

    Returns:
        Shape ``(N, len(STATISTICS))``.
    """
    given, fit, rng = Contributions.from_terms(view.terms), LeastSquaresObjective(view.terms), np.random.default_rng(0)
    energy = np.maximum(np.diag(given.gram), 0.0)
    scale = np.sqrt(np.where(energy > 0, energy, 1.0))
    correlation = np.abs(given.gram / scale / scale[:, None]) * (1 - np.eye(fit.size))
    alone = fit.gains(fit.start(), np.arange(fit.size))
    columns = [
        *(_relative(score) for score in (l1(view, rng), bn_scale(view, rng), energy, np.maximum(alone, 0.0))),
        given.cross / max(float(np.abs(given.cross).mean()), np.finfo(np.float64).tiny),
        correlation.mean(axis=1),
        correlation.max(axis=1),
    ]
    return np.stack(columns, axis=1)


def _relative(score: FloatArray) -> FloatArray:
    """The logarithm of a score over its mean, bounded below."""
    return np.log(score / max(float(score.mean()), np.finfo(np.float64).tiny) + 1e-3)


@dataclass(frozen=True)
class LearnedRanker(Ranker):
    """Ranks units by a learned selector."""

    selector: ChannelSelector

    def __post_init__(self) -> None:
        """Check that the selector uses the same statistics.

        Raises:
            InvalidSetting: If it was trained on others.
        """
        if self.selector.statistics != STATISTICS:
            raise InvalidSetting(
                f"the selector must know the statistics {', '.join(STATISTICS)}, of "
                f"scionet.methods.criteria.learned.lessons; it was made for {', '.join(self.selector.statistics)}"
            )

    @property
    def name(self) -> str:
        """Name in plans and records."""
        return "learned"

    @property
    def uses_moments(self) -> bool:
        """Always: statistics are taken from them."""
        return True

    @property
    def nested(self) -> bool:
        """Always: the order does not depend on the width."""
        return True

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """The first `n_units` of the order, with the curve of the refit's error."""
        return replay(LeastSquaresObjective(view.terms), self.selector.rank(statistics(view))[:n_units])


def learned(selector: ChannelSelector) -> Ranker:
    """Return a ranker for `prune` that uses a learned selector.

    Args:
        selector: A selector trained on `lessons`.

    Raises:
        InvalidSetting: If the selector uses other statistics.
    """
    return LearnedRanker(selector)
