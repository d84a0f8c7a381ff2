"""A selector of channels that learns from an expensive one: cheap statistics of the channels in, an order out."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scionet.differentiable.soft_greedy import SoftGreedy, fit
from scionet.errors import CheckpointError, InvalidSetting
from scionet.files.atomic import whole_file

FloatArray = NDArray[np.float64]

FORMAT = "1"
"""Version of the file; raised when an older reader could misread one."""


class ChannelSelector(nn.Module):
    """Orders the channels of a site by hard greedy selection of a learned submodular function of their statistics.

    A small net, the same for every channel, makes the features of `SoftGreedy` out of a channel's statistics; so a site
    may have any width, and permuting the channels permutes the order.

    Attributes:
        statistics: What the columns of the input are.
        layer: The function that is maximised.
    """

    def __init__(self, statistics: Sequence[str], n_hidden: int = 16, n_features: int = 16, seed: int = 0) -> None:
        """Make an untaught selector.

        Args:
            statistics: Names of the statistics of a channel, one per column of the input.
            n_hidden: Hidden units of the net.
            n_features: Features that it makes of a channel.
            seed: Of the net's first weights.
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
        """Learn to choose as somebody chose; see `soft_greedy.fit`.

        Args:
            sites: Statistics of the channels of each site, shape ``(n_i, statistics)``.
            orders: The channels of each site in the order in which they were chosen, at least ``max(densities) * n_i``.
            densities: Which fractions of each site are to be imitated, as sets.
            steps: Number of updates.
            learning_rate: Of Adam.
            tau: Temperature.

        Returns:
            The loss before each update.

        Raises:
            InvalidSetting: If shapes do not fit, an order is too short, or a density is outside (0, 1].
        """
        inputs = [self._tensor(site) for site in sites]
        if not all(0 < density <= 1 for density in densities):
            raise InvalidSetting(f"densities must lie inside (0, 1]; given {list(densities)}")
        if len(inputs) != len(orders) or not inputs:
            raise InvalidSetting(f"there must be one order per site; given {len(orders)} and {len(inputs)}")
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
        """All channels of a site in the order in which they are chosen.

        Args:
            site: Statistics of its channels, shape ``(n, statistics)``.

        Raises:
            InvalidSetting: If the shape does not fit, or a number is NaN or infinite.
        """
        channels = self._tensor(site)
        return self.layer(channels[None], len(channels), mode="hard").order[0].tolist()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the selector to a safetensors file.

        Raises:
            CheckpointError: If the file exists or cannot be written.
        """
        with whole_file(path, ".safetensors", overwrite=overwrite, error=CheckpointError) as temporary:
            metadata = {"format": FORMAT, "statistics": json.dumps(self.statistics)}
            save_file(self.state_dict(), temporary, metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "ChannelSelector":
        """Read what `save` wrote. Nothing is unpickled.

        Raises:
            CheckpointError: If the file is missing, damaged, of a newer format or no selector.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name).clone() for name in file.keys()}
            if metadata["format"] != FORMAT:
                raise CheckpointError(
                    f"{path} has format {metadata['format']}; this scionet reads {FORMAT}; upgrade it"
                )
            n_features, n_hidden = state["layer.feature_map.outwards.weight"].shape
            selector = cls(json.loads(metadata["statistics"]), n_hidden, n_features)
            selector.load_state_dict(state)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path} is missing, damaged or no selector of channels ({error})") from error
        return selector

    @property
    def _encoder(self) -> "_Encoder":
        assert isinstance(self.layer.feature_map, _Encoder)
        return self.layer.feature_map

    def _tensor(self, site: FloatArray) -> Tensor:
        """The statistics as a tensor in the net's type and place.

        Raises:
            InvalidSetting: If the shape does not fit, or a number is NaN or infinite.
        """
        array = np.asarray(site, dtype=np.float64)
        if array.ndim != 2 or not len(array) or array.shape[1] != len(self.statistics) or not np.isfinite(array).all():
            raise InvalidSetting(
                f"a site must be finite numbers (channels, {len(self.statistics)}), the statistics "
                f"{', '.join(self.statistics)} of each channel; given shape {array.shape}"
            )
        return torch.from_numpy(array).to(self.layer.theta)


class _Encoder(nn.Module):
    """Statistics, standardised, through one hidden layer to features of at least 0."""

    mean: Tensor
    scale: Tensor

    def __init__(self, n_statistics: int, n_hidden: int, n_features: int) -> None:
        super().__init__()
        self.inwards, self.outwards = nn.Linear(n_statistics, n_hidden), nn.Linear(n_hidden, n_features)
        self.register_buffer("mean", torch.zeros(n_statistics))
        self.register_buffer("scale", torch.ones(n_statistics))

    def standardise(self, channels: Tensor) -> None:
        """Take mean and scale from channels ``(n, statistics)``; a statistic that never varies keeps scale 1."""
        deviation = channels.std(0, correction=0)
        self.mean.copy_(channels.mean(0))
        self.scale.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, channels: Tensor) -> Tensor:
        """Features of channels ``(..., statistics)``."""
        hidden = torch.tanh(self.inwards((channels - self.mean) / self.scale))
        return nn.functional.softplus(self.outwards(hidden))


def _first(order: Sequence[int], density: float, width: int) -> list[int]:
    """The channels that stay at a density.

    Raises:
        InvalidSetting: If the order has fewer.
    """
    count = max(1, round(density * width))
    if len(order) < count:
        raise InvalidSetting(
            f"an order must name {count} of {width} channels for density {density}; given {len(order)}"
        )
    return list(order[:count])
