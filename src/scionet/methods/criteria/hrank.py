"""HRank: units by the ranks of their feature maps."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError
from scionet.methods.calibration.calibration import Calibration
from scionet.methods.criteria.unit_scores import MeasuredRanker, ScoreRanker, l1
from scionet.network.calling import Batch, call, example_count
from scionet.network.multiprocess import summed
from scionet.network.network import Network
from scionet.network.sites import Sites
from scionet.typing import FloatArray


@dataclass(frozen=True)
class RankRanker(MeasuredRanker):
    """Ranks units by the mean rank of their feature maps, as inputs of their consumers, highest first.

    Source: Lin et al., *HRank: Filter Pruning using High-Rank Feature Map*, CVPR 2020. There are three differences. All
    layers are measured in one pass. The rank of a unit is the mean over its consumers. Matrix ranks count singular
    values above max(h, w) · ε · the largest. Units without maps, such as those in front of a linear map, are ranked by
    `l1`.
    """

    @property
    def name(self) -> str:
        """Name in plans and records."""
        return "hrank"

    def measured(self, network: Network, calibration: Calibration) -> dict[str, FloatArray]:
        """The ranks of all units that have maps.

        Raises:
            CalibrationError: If there are no batches, or maps are NaN or infinite.
        """
        return mean_ranks(network, calibration.inputs)

    def _with_scores(self, found: Mapping[str, FloatArray]) -> ScoreRanker:
        """A ranker that knows the ranks of all sites with maps."""
        return ScoreRanker(
            lambda view, rng: found[view.site.name] if view.site.name in found else l1(view, rng), self.name
        )


def mean_ranks(network: Network, batches: Iterable[Batch]) -> dict[str, FloatArray]:
    """Mean rank of each unit's maps over examples and consumers, ``(width,)``, for the sites that have maps.

    Raises:
        CalibrationError: If there are no batches, or maps are NaN or infinite.
    """
    model, sites = network.model, network.sites
    sums = {
        consumer.weight: torch.zeros(sites.shapes[consumer.weight][1], dtype=torch.float64, device=network.device)
        for consumer in sites.consumers.values()
        if _has_maps(model.get_submodule(consumer.module))
    }
    examples = 0
    with network.evaluating(), _watched(model, sites, sums):
        for batch in batches:
            inputs = network.placed(batch)
            call(model, inputs)
            examples += example_count(inputs)
    seen_examples = float(summed(torch.tensor(float(examples), device=network.device)))
    if not seen_examples:
        raise CalibrationError("there are no calibration batches; give at least one, or choose method 'l1'")
    means = {weight: summed(ranks) / seen_examples for weight, ranks in sums.items()}
    seen = {weight: mean for weight, mean in means.items() if bool(mean.any())}  # others were called as functions
    return {name: _of(site, seen) for name, site in sites.items() if any(weight in seen for weight in site.consumers)}


def map_ranks(maps: Tensor) -> Tensor:
    """Ranks of matrices ``(..., h, w)``, float64 ``(...)``.

    Raises:
        CalibrationError: If entries are NaN or infinite.
    """
    if not bool(torch.isfinite(maps).all()):
        raise CalibrationError("feature maps have NaN or infinite values; look for them in data and weights")
    return torch.linalg.matrix_rank(maps.to(torch.promote_types(maps.dtype, torch.float32))).double()


def _has_maps(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == 1


@contextmanager
def _watched(model: nn.Module, sites: Sites, sums: dict[str, Tensor]) -> Iterator[None]:
    """Add the ranks of what consumers are given to their sums."""

    def watch(weight: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_module: nn.Module, args: tuple[Any, ...]) -> None:
            sums[weight] += map_ranks(args[0]).sum(0)

        return add

    modules = {c.weight: model.get_submodule(c.module) for c in sites.consumers.values() if c.weight in sums}
    hooks = [module.register_forward_pre_hook(watch(weight)) for weight, module in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _of(site: Any, ranks: dict[str, Tensor]) -> FloatArray:
    """Mean over a unit's channels and consumers."""
    seen = [
        ranks[weight].cpu()[torch.from_numpy(site.slot(weight, 1).index)].mean(1)
        for weight in site.consumers
        if weight in ranks
    ]
    return torch.stack(seen).mean(0).numpy()
