"""Greedy selection as an importance for Torch-Pruning's pruners.

    from scionet.adapters.torch_pruning import GreedyImportance

    importance = GreedyImportance(model, batches, example_inputs)
    tp.pruner.BasePruner(model, example_inputs, importance=importance, pruning_ratio=0.5).step()

Torch-Pruning decides the widths and cuts the network, without changing the kept weights. `scionet.prune` also refits
them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.choices.limits import Limits
from scionet.choices.methods import Forward
from scionet.choices.repair import Refit
from scionet.choices.resources import Resources
from scionet.choices.settings import Settings
from scionet.errors import InvalidSetting
from scionet.methods.greedy.forward import ForwardRanker
from scionet.methods.refit.survey import survey, surveying
from scionet.network.calling import Batch
from scionet.selection.greedy import Selection
from scionet.typing import FloatArray

_FORWARD, _LIMITS, _RESOURCES = Forward(), Limits(), Resources()


class GreedyImportance:
    """An `importance` for Torch-Pruning: the earlier greedy selection picks a channel, the more important it is.

    A channel's importance is the relative error of its consumers just before it was picked, summed over consumers. Per
    consumer it is 1 for the first channel and close to 0 for the last, so it can also be compared across layers
    (`global_pruning=True`).

    Channels that scionet does not prune get no importance, and neither do those of attention heads, which are not
    single channels. Torch-Pruning leaves these groups whole.

    The importance is computed on first use, and again when shapes have changed (iterative pruning).
    """

    def __init__(
        self,
        model: nn.Module,
        calibration_data: Iterable[Any],
        example_inputs: Batch,
        *,
        forward: Forward = _FORWARD,
        limits: Limits = _LIMITS,
        resources: Resources = _RESOURCES,
        seed: int = 0,
    ) -> None:
        """Sample the calibration examples; the importance itself is computed on first use.

        Args:
            model: The network that the pruner prunes.
            calibration_data: Batches like `example_inputs`; what they hold beyond that is ignored. `survey_examples` of
                them are kept.
            example_inputs: What the model is called on.
            forward: The greedy selection, such as ``Forward(objective="average")``.
            limits: Layers whose channels stay.
            resources: How many examples and positions are sampled.
            seed: Root of all randomness.

        Raises:
            InvalidSetting: If the selection needs labels.
            PruneError: If nothing can be pruned, or the data do not fit.
        """
        self.model, self.example_inputs, self.seed = model, example_inputs, seed
        self.settings = Settings(repair=(Refit(),), limits=limits, resources=resources)
        self.ranker = ForwardRanker(forward, self.settings)
        if self.ranker.uses_labels:
            raise InvalidSetting("an importance has no labels; choose an objective other than 'task_loss'")
        self._data: list[Any] = surveying(
            model, calibration_data, example_inputs, self.ranker, self.settings, seed
        ).surveyed.inputs
        self._seen: dict[str, torch.Size] = {}
        self._scores: dict[tuple[str, int], FloatArray] = {}

    def __call__(self, group: Any) -> Tensor | None:
        """Importance of each channel of a group, shape ``(channels,)``; None for a group that is left whole.

        Args:
            group: Coupled channels, as returned by Torch-Pruning's dependency graph.
        """
        names = {module: name for name, module in self.model.named_modules()}
        found = np.full(len(group[0].idxs), np.nan)
        scores = self.scores()
        for number, (dep, idxs) in enumerate(group):
            key = f"{names.get(dep.layer)}.weight", 1 if getattr(dep.layer, "transposed", False) else 0
            root_idxs = group[number].root_idxs
            if dep.pruning_fn.__name__.endswith("out_channels") and key in scores and None not in root_idxs:
                found[root_idxs] = scores[key][idxs]
        return None if np.isnan(found).any() else torch.from_numpy(found)

    def scores(self) -> Mapping[tuple[str, int], FloatArray]:
        """Importance of each channel, by weight and dimension; NaN for channels that scionet does not prune."""
        shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        if shapes != self._seen:
            self._scores, self._seen = self._measured(), shapes
        return self._scores

    def _measured(self) -> dict[tuple[str, int], FloatArray]:
        """One pass over the data, one greedy path per site."""
        run = surveying(self.model, self._data, self.example_inputs, self.ranker, self.settings, self.seed)
        scores: dict[tuple[str, int], FloatArray] = {}
        names = [name for name, site in run.sites.items() if site.unit != "head"]
        for view, _ in survey(run, run.calibration, names):
            site = view.site
            path = self.ranker.rank(view, site.width, run.generators("rank", site.name))
            score = _error_before_pick(path, site.width, float(len(site.consumers)))
            for slot in site.slots:
                at = scores.setdefault(
                    (slot.tensor, slot.dim), np.full(run.sites.shapes[slot.tensor][slot.dim], np.nan)
                )
                at[slot.index] = score[:, None]
        return scores


def _error_before_pick(path: Selection, width: int, empty: float) -> FloatArray:
    """The error before each unit was first picked, strictly decreasing along the path; 0 for units never picked."""
    scores, before = np.zeros(width), empty
    first: dict[int, float] = {}
    for unit, value in zip(path.order, path.values, strict=True):
        first.setdefault(unit, before)
        before = min(before, -value)
    ties = 1e-9 * np.arange(len(first), 0, -1)
    scores[list(first)] = np.array([*first.values()]) + ties
    return scores
