"""A channel selector that learns to imitate an expensive selection from cheap statistics of the channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scionet.differentiable.soft_greedy import SoftGreedy, fit
from scionet.errors import InvalidSetting
from scionet.files.safetensors_files import SealedFormat
from scionet.files.versioned import Format
from scionet.modes import plain_modes
from scionet.typing import FloatArray

SELECTORS = SealedFormat(
    "scionet_selector", "channel selector", "ChannelSelector.save", Format(2, (), "Fit the selector again, and save it")
)


@dataclass(frozen=True)
class SelectorHeader:
    """File header: the names of the statistics, one for each input column."""

    statistics: tuple[str, ...]


class ChannelSelector(nn.Module):
    """Orders the channels of a site by hard greedy maximisation of a learned submodular function.

    A small network, shared by all channels, maps a channel's statistics to the features of `SoftGreedy`. A site may
    therefore have any width, and the order is equivariant to permutations of the channels.

    Attributes:
        statistics: Names of the input columns.
        layer: The learned function.
    """

    def __init__(self, statistics: Sequence[str], n_hidden: int = 16, n_features: int = 16, seed: int = 0) -> None:
        """Make an untrained selector.

        Args:
            statistics: Names of the statistics of a channel, one per input column.
            n_hidden: Number of hidden units.
            n_features: Number of features per channel.
            seed: Seed of the initial weights.
        """
        super().__init__()
        self.statistics = tuple(statistics)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = _Encoder(len(self.statistics), n_hidden, n_features)
        self.layer = SoftGreedy(n_features, encoder)

    def fit(
        self,
        sites: Sequence[FloatArray],
        orders: Sequence[Sequence[int]],
        *,
        densities: Sequence[float] = (0.25, 0.5, 0.75),
        steps: int = 100,
        learning_rate: float = 0.03,
        tau: float = 0.3,
    ) -> list[float]:
        """Learn to imitate given orders; see `soft_greedy.fit`.

        Args:
            sites: Statistics of the channels of each site, shape ``(n_i, statistics)``.
            orders: Channels of each site in the order of their selection, at least ``max(densities) * n_i``.
            densities: Fractions of each order to imitate as sets.
            steps: Number of updates.
            learning_rate: Learning rate of Adam.
            tau: Temperature.

        Returns:
            The loss before each update.

        Raises:
            InvalidSetting: If shapes do not match, an order is too short, or a density is outside (0, 1].
        """
        inputs = [self._tensor(site) for site in sites]
        if not all(0 < density <= 1 for density in densities):
            raise InvalidSetting(f"densities must lie in (0, 1]; given {list(densities)}")
        if len(inputs) != len(orders) or not inputs:
            raise InvalidSetting(
                f"there must be one order per site; given {len(orders)} orders for {len(inputs)} sites"
            )
        self._encoder.standardise(torch.cat(inputs))
        repeated = [site for site in inputs for _ in densities]
        sets = [
            _first(order, density, len(site))
            for site, order in zip(inputs, orders, strict=True)
            for density in densities
        ]
        return fit(self.layer, repeated, sets, steps=steps, learning_rate=learning_rate, tau=tau)

    @torch.no_grad()
    def rank(self, site: FloatArray) -> list[int]:
        """All channels of a site in the order of their selection.

        Args:
            site: Statistics of the channels, shape ``(n, statistics)``.

        Raises:
            InvalidSetting: If the shape does not match, or a number is NaN or infinite.
        """
        channels = self._tensor(site)
        return self.layer(channels[None], len(channels), mode="hard").order[0].tolist()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the selector to a safetensors file.

        Raises:
            CheckpointError: If the file exists or cannot be written.
            InvalidSetting: If its name does not end in ``.safetensors``.
        """
        return SELECTORS.save(path, self.state_dict(), SelectorHeader(self.statistics), overwrite=overwrite)

    @classmethod
    @plain_modes()
    def load(cls, path: str | Path) -> "ChannelSelector":
        """Load a selector that `save` wrote. Nothing is unpickled.

        Raises:
            CheckpointError: If the file is missing, damaged, of another format version, or contains something else.
        """
        header, state = SELECTORS.read(SelectorHeader, path)
        try:
            n_features, n_hidden = state["layer.feature_map.outwards.weight"].shape
            if (columns := state["layer.feature_map.mean"].numel()) != len(header.statistics):
                raise ValueError(f"it names {len(header.statistics)} statistics for {columns} columns")
            selector = cls(header.statistics, n_hidden, n_features)
            selector.load_state_dict(state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise SELECTORS.damaged(path, f"its tensors do not fit ({error})") from error
        return selector

    @property
    def _encoder(self) -> "_Encoder":
        assert isinstance(self.layer.feature_map, _Encoder)
        return self.layer.feature_map

    def _tensor(self, site: FloatArray) -> Tensor:
        """Convert statistics to a tensor with the dtype and device of the selector.

        Raises:
            InvalidSetting: If the shape does not match, or a number is NaN or infinite.
        """
        array = np.asarray(site, dtype=np.float64)
        if array.ndim != 2 or not len(array) or array.shape[1] != len(self.statistics) or not np.isfinite(array).all():
            raise InvalidSetting(
                f"a site must be an array of finite numbers (channels, {len(self.statistics)}) with the statistics "
                f"{', '.join(self.statistics)} of each channel; given shape {array.shape}"
            )
        return torch.from_numpy(array).to(self.layer.theta)


class _Encoder(nn.Module):
    """Maps standardised statistics through one hidden layer to nonnegative features."""

    mean: Tensor
    scale: Tensor

    def __init__(self, n_statistics: int, n_hidden: int, n_features: int) -> None:
        super().__init__()
        self.inwards, self.outwards = nn.Linear(n_statistics, n_hidden), nn.Linear(n_hidden, n_features)
        self.register_buffer("mean", torch.zeros(n_statistics))
        self.register_buffer("scale", torch.ones(n_statistics))

    def standardise(self, channels: Tensor) -> None:
        """Set mean and scale from channels ``(n, statistics)``. Constant statistics keep scale 1."""
        deviation = channels.std(0, correction=0)
        self.mean.copy_(channels.mean(0))
        self.scale.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, channels: Tensor) -> Tensor:
        """Features of channels ``(..., statistics)``."""
        hidden = torch.tanh(self.inwards((channels - self.mean) / self.scale))
        return nn.functional.softplus(self.outwards(hidden))


def _first(order: Sequence[int], density: float, width: int) -> list[int]:
    """The channels kept at a density.

    Raises:
        InvalidSetting: If the order is too short.
    """
    count = max(1, round(density * width))
    if len(order) < count:
        raise InvalidSetting(
            f"an order must contain at least {count} of {width} channels for density {density}; given {len(order)}"
        )
    return list(order[:count])
