"""IncReg on arrays: a weight decay for each unit, which grows or falls by the unit's average rank."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scionet.choices.shrinking import SchemeName

_REACHED = 1 - 1e-9
"""Part of the target that counts as reached, since sums of increments are rounded."""
_LARGEST_EXPONENT = 600.0


def increments(ranks: Tensor, to_go: Tensor, live: Tensor, largest: float, u: float, scheme: SchemeName) -> Tensor:
    """Changes of the weight decay, from `largest` for rank 0 down to negative ones beyond the units that are to go.

    With r the rank, K the number of units to go, n the number of live units, A the largest increment:

    - exponential (Wang et al., IJCNN 2019): α = ln(2 / u) / K and N = -ln(u) / α; A exp(-α r) for r < N, else
      2 u A - A exp(-α (2 N - r)).
    - linear (the same, NIPS workshop 2018): A (1 - r / K) for r ≤ K, else -A (r - K) / max(n - 1 - K, 1).

    Args:
        ranks: Ranks from 0, float64 ``(sites, units)``.
        to_go: K, float64 ``(sites, 1)``, 1 or more.
        live: n, shape ``(sites, 1)``.
        largest: A.
        u: Shape of the exponential increment, in (0, 1).
        scheme: Which of the two.
    """
    if scheme == "linear":
        rising = 1 - ranks / to_go
        return largest * torch.where(ranks <= to_go, rising, (to_go - ranks) / (live - 1 - to_go).clamp_min(1))
    alpha = math.log(2 / u) / to_go
    turn = -math.log(u) / alpha
    falling = 2 * u - (alpha * (ranks - 2 * turn)).clamp_max(_LARGEST_EXPONENT).exp()
    return largest * torch.where(ranks < turn, (-alpha * ranks).exp(), falling)


def rank_of(scores: Tensor) -> Tensor:
    """Rank of each entry of a row from 0, ascending; among equals the first one comes first."""
    return scores.argsort(dim=1, stable=True).argsort(dim=1)


@dataclass(eq=False)
class AveragedRanks:
    """The weight decays of all units of several sites, which are updated together.

    Rows are sites. Sites of fewer units than others are padded at the end of their rows.

    Attributes:
        widths: Units of each site, int64 ``(sites,)``.
        counts: Units of each site that are to go, ``(sites,)``; fewer than `widths`.
        largest: Largest increment.
        target: Weight decay at which a unit is removed.
        u: Shape of the exponential increment.
        scheme: The increment as a function of the rank.
        updates: Updates done.
        decays: Current weight decays, float64 ``(sites, most units)``.
        rank_sums: Sums of the ranks over all updates, int64 ``(sites, most units)``: they are ordered as the means are.
        removed: Units removed so far, boolean ``(sites, most units)``.
    """

    widths: Tensor
    counts: Tensor
    largest: float
    target: float
    u: float = 0.25
    scheme: SchemeName = "exponential"
    updates: int = field(default=0, init=False)
    decays: Tensor = field(init=False)
    rank_sums: Tensor = field(init=False)
    removed: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Start without decay."""
        shape = len(self.widths), int(self.widths.max())
        zeros = torch.zeros(shape, dtype=torch.float64, device=self.widths.device)
        self.decays, self.rank_sums, self.removed = zeros, zeros.long(), zeros.bool()

    @property
    def present(self) -> Tensor:
        """Entries that stand for a unit, boolean ``(sites, most units)``."""
        return torch.arange(self.decays.shape[1], device=self.widths.device) < self.widths[:, None]

    @property
    def to_go(self) -> Tensor:
        """Units that are still to go, int64 ``(sites, 1)``."""
        return self.counts[:, None] - self.removed.sum(1, keepdim=True)

    @property
    def finished(self) -> bool:
        """Whether every unit that was to go is removed."""
        return not bool((self.to_go > 0).any())

    def update(self, scores: Tensor) -> Tensor:
        """Take one step of all decays.

        Args:
            scores: Importance of each unit, ``(sites, most units)``.

        Returns:
            The units that are removed now, boolean ``(sites, most units)``.
        """
        self.updates += 1
        scores, to_go = scores.double(), self.to_go
        live = self.present & ~self.removed & (to_go > 0)
        # Removed units count as the lowest ranks, so that a removal does not change the average of the others.
        now = rank_of(scores.masked_fill(self.removed, -math.inf).masked_fill(~self.present, math.inf))
        self.rank_sums += torch.where(live, now, 0)
        order = rank_of(torch.where(live, self.rank_sums, torch.iinfo(torch.int64).max))
        alive = live.sum(1, keepdim=True)
        step = increments(order.double(), to_go.clamp_min(1).double(), alive, self.largest, self.u, self.scheme)
        self.decays = torch.where(live, (self.decays + step).clamp_min(0), self.decays)
        reached = live & (self.decays >= self.target * _REACHED)
        first = rank_of(torch.where(reached, order, order.shape[1]))
        going = reached & (first < to_go)
        self.removed = self.removed | going
        return going
