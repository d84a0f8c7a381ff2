"""Patterns: the densities of a pruned network's stages, which may be given to another network.

Source: Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, section 5 (guided pruning).
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from scionet.choices.widths import Widths
from scionet.errors import InvalidSetting
from scionet.network.sites import Site, Sites


@dataclass(frozen=True)
class Pattern:
    """The average density of each stage of a pruned network.

    A *stage* is all sites whose units are computed at the same number of positions, such as the pixels of a feature
    map: one operation per entry of a weight and position.

    Attributes:
        densities: Fraction of units kept, in (0, 1], from the stage with the most positions to the one with the fewest.
    """

    densities: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InvalidSetting: If there is no stage, or a density is out of range.
        """
        if not self.densities or not all(0 < density <= 1 for density in self.densities):
            raise InvalidSetting(f"a pattern has a density in (0, 1] for each stage; given {self.densities}")

    @classmethod
    def of(cls, sites: Sites, widths: Mapping[str, int]) -> "Pattern":
        """The pattern of a pruned network.

        Args:
            sites: Sites of the dense network.
            widths: Units that each site keeps; sites that are not named stay whole.
        """
        there, kept = defaultdict[int, int](int), defaultdict[int, int](int)
        for name, stage in stages(sites).items():
            there[stage] += sites[name].width
            kept[stage] += widths.get(name, sites[name].width)
        return cls(tuple(kept[stage] / there[stage] for stage in sorted(there)))

    def shares(self, sites: Sites) -> dict[str, float]:
        """The density of each site's stage, in any network with the same number of stages.

        Raises:
            InvalidSetting: If the network has another number of stages.
        """
        found = stages(sites)
        if (count := len({*found.values()})) != len(self.densities):
            raise InvalidSetting(
                f"the pattern has {len(self.densities)} stages, the network {count}; give one with as many stages; "
                "a stage is all sites whose units are computed at the same number of positions"
            )
        return {name: self.densities[stage] for name, stage in found.items()}

    def widths(self, sites: Sites) -> Widths:
        """Units that each site keeps at these densities: the nearest whole number, at least one.

        Raises:
            InvalidSetting: See `shares`.
        """
        shares = self.shares(sites)
        return Widths({name: max(1, int(share * sites[name].width + 0.5)) for name, share in shares.items()})


def stages(sites: Sites) -> dict[str, int]:
    """The stage of each site, from 0, in descending order of the positions at which its units are computed."""
    counted = {op.weight: op.macs / math.prod(sites.shapes[op.weight]) for op in sites.operations if op.weight}
    positions = {name: _first(site, counted) for name, site in sites.items()}
    numbers = {count: number for number, count in enumerate(sorted({*positions.values()}, reverse=True))}
    return {name: numbers[count] for name, count in positions.items()}


def _first(site: Site, positions: Mapping[str, float]) -> float:
    """The number of positions at which the first operation that produces or consumes the units is applied."""
    return next(positions[weight] for weight in (*site.producers, *site.consumers) if weight in positions)
