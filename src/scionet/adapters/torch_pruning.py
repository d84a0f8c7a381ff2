"""Greedy selection as an importance for Torch-Pruning's pruners.

    from scionet.adapters.torch_pruning import GreedyImportance

    importance = GreedyImportance(model, batches, example_inputs)
    tp.pruner.BasePruner(model, example_inputs, importance=importance, pruning_ratio=0.5).step()

Torch-Pruning decides the widths and cuts the network, without changing the kept weights. `scionet.prune` also refits
them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.methods.calibration.subsets import subsets
from scionet.methods.greedy.forward import ForwardRanker
from scionet.methods.refit.refit import Fitting
from scionet.methods.refit.survey import survey
from scionet.network.calling import Batch, inputs_like
from scionet.network.discovery.discover import Ignored, discover
from scionet.network.sites import Sites
from scionet.progress import silent
from scionet.seeds import seeded
from scionet.selection.greedy import Selection
from scionet.selection.objective import FloatArray
from scionet.settings import ForwardSettings


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
        ignored_layers: Ignored = (),
        seed: int = 0,
        **settings: Any,
    ) -> None:
        """Sample the calibration examples; the importance itself is computed on first use.

        Args:
            model: The network to prune.
            calibration_data: Batches like `example_inputs`; anything else in them is ignored. `survey_examples`
                examples are sampled and kept in memory.
            example_inputs: Inputs of the model.
            ignored_layers: Layers whose channels are kept: names, globs, types or modules.
            seed: Seed of all randomness.
            **settings: Settings of `ForwardSettings`, such as ``objective="average"``.

        Raises:
            InvalidSetting: If a setting is out of range.
        """
        self.model, self.example_inputs, self.ignored_layers, self.seed = model, example_inputs, ignored_layers, seed
        self.settings = ForwardSettings(**settings)
        data = list(calibration_data) if isinstance(calibration_data, Iterator) else calibration_data
        (sample,) = subsets(model, data, (self.settings.survey_examples,), seeded(seed))
        self._batches = [inputs_like(example_inputs, batch)[0] for batch in sample]
        self._shapes: dict[str, torch.Size] = {}
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
        if shapes != self._shapes:
            sites = discover(self.model, self.example_inputs, self.ignored_layers)
            self._scores, self._shapes = self._computed(sites), shapes
        return self._scores

    def _computed(self, sites: Sites) -> dict[tuple[str, int], FloatArray]:
        """Compute scores with one pass over the data and one greedy selection per site."""
        generators, ranker = seeded(self.seed), ForwardRanker(self.settings)
        scores: dict[tuple[str, int], FloatArray] = {}
        names = [name for name, site in sites.items() if site.unit != "head"]
        for view, _ in survey(Fitting(self.model, sites, self.settings), self._batches, names, generators, silent):
            site = view.site
            path = ranker.rank(view, site.width, generators("rank", site.name))
            score = _error_before_pick(path, site.width, float(len(site.consumers)))
            for slot in site.slots:
                key, size = (slot.tensor, slot.dim), sites.shapes[slot.tensor][slot.dim]
                scores.setdefault(key, np.full(size, np.nan))[slot.index] = score[:, None]
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
