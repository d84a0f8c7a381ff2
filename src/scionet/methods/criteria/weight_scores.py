"""Scores of single weights as scores of units: reduced over the weights that produce each unit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scionet.errors import CalibrationError
from scionet.masks.mask_rule import MaskRule
from scionet.masks.rounds import ScoringTask
from scionet.masks.scores import WeightScore
from scionet.masks.weights import maskable, upcast
from scionet.methods.calibration.calibration import Calibration
from scionet.methods.criteria.unit_scores import MeasuredRanker
from scionet.network.checkpoints.records import inputs_of
from scionet.network.example_loss import labelled
from scionet.network.network import Network
from scionet.network.sites import Site
from scionet.typing import FloatArray

Reduction = Callable[[Tensor], Tensor]
"""Maps the scores of the weights that produce each unit, ``(N, weights)``, to scores of the units, ``(N,)``."""


def total(scores: Tensor) -> Tensor:
    """Their sum."""
    return scores.sum(1)


def absolute_total(scores: Tensor) -> Tensor:
    """The absolute value of their sum."""
    return scores.sum(1).abs()


@dataclass(frozen=True)
class WeightRanker(MeasuredRanker):
    """Ranks units by the scores of the weights that produce them, measured in the dense network once for all sites.

    Attributes:
        label: Name of the method.
        weight_score: Name of the score of single weights.
        score: The score of single weights.
        reduction: Maps the scores of a unit's weights to the unit's score.
    """

    label: str
    weight_score: str
    score: WeightScore
    reduction: Reduction = total

    @property
    def name(self) -> str:
        """Name in plans and records."""
        return self.label

    @property
    def uses_labels(self) -> bool:
        """Whether the score does."""
        return self.score.uses_labels

    @property
    def uses_data(self) -> bool:
        """Whether the score does."""
        return self.score.uses_labels

    def measured(self, network: Network, calibration: Calibration) -> dict[str, FloatArray]:
        """The scores of all units.

        Raises:
            CalibrationError: If labels are missing or do not fit, or the score is NaN or 0 throughout.
            UnsupportedModel: If the network does not run as the score needs it.
        """
        model, sites = network.model, network.sites
        producers = {name for site in sites.values() for name in site.producers}
        state = network.state
        weights = upcast({**maskable(model), **{name: state[name] for name in sorted(producers)}})
        masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        example = None if sites.inputs is None else inputs_of(sites.inputs).blank()
        with network.evaluating():
            pairs = [labelled(pair, model, network.outputs) for pair in calibration.pairs] if self.uses_labels else []
            if self.uses_labels and not pairs:
                raise CalibrationError("there are no calibration batches; give at least one pair (inputs, labels)")
            rule, outputs = MaskRule(density=1.0), network.outputs
            task = ScoringTask(model, weights, self.weight_score, self.score, rule, pairs, example, outputs=outputs)
            found = task.scores(masks, 1)
        return {name: self._of(site, found) for name, site in sites.items()}

    def _of(self, site: Site, scores: Any) -> FloatArray:
        """Scores of a site's units, from the scores of all producing weights in one row for each unit."""
        rows = []
        for producer in site.producers:
            index = torch.from_numpy(site.slot(producer, 0).index)
            rows.append(scores[producer].to("cpu", torch.float64)[index].flatten(1))
        return self.reduction(torch.cat(rows, 1)).numpy()
