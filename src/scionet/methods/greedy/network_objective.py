"""Objectives of greedy selection that evaluate the output of the whole network."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from scionet.errors import CalibrationError
from scionet.methods.contract import SiteView
from scionet.methods.greedy.example_losses import ExampleLosses, Points, Score
from scionet.methods.greedy.gated_network import GatedSite
from scionet.methods.greedy.racing import racing
from scionet.network.calling import Batch
from scionet.network.multiprocess import everywhere, largest, summed
from scionet.network.named_outputs import Pick, Tensors
from scionet.selection.objective import Objective
from scionet.typing import FloatArray, IntArray

BLOCK = 16
"""The fewest examples that a candidate is evaluated on before it is compared again."""
TOGETHER_SHARE = 8
"""A round continues with one candidate in this many."""


@dataclass(frozen=True)
class Scoring:
    """Settings of the evaluation of candidates.

    Attributes:
        taylor: Whether candidates are ranked by the loss linearised in the gates.
        fresh_batches: Whether each pick is decided on one calibration batch, in turns, and not on all.
        memory_bytes: What may be computed in advance and kept.
    """

    taylor: bool = False
    fresh_batches: bool = False
    memory_bytes: float = 2 * 2**30


EXACTLY = Scoring()


@dataclass(frozen=True, eq=False)
class _Picks:
    """Multiplicities, gates, the loss of each example, minus its mean, and the losses of evaluated candidates."""

    counts: FloatArray
    points: Points
    losses: Tensor
    value: float
    seen: dict[int, Tensor] = field(default_factory=dict)

    @property
    def n_picks(self) -> int:
        return int(self.counts.sum())


class NetworkObjective(Objective[_Picks]):
    """Minus the mean loss of the whole network with gates ``a_i = N c_i / n`` after n picks.

    Exact: examples with the largest losses are evaluated first. A candidate is dropped as soon as it cannot be the
    best. The gain reported for such a candidate is an upper bound, below the largest gain.

    Taylor: gains are those of the loss linearised in the gates, so one forward and one backward pass score all
    candidates. A pick is not a small step, so the ranking differs from the exact one. The first pick has no useful
    gradient and is evaluated exactly.
    """

    def __init__(
        self,
        view: SiteView,
        given: Sequence[tuple[Batch, Tensors]],
        score: Score,
        scoring: Scoring,
        pick: Pick,
    ) -> None:
        """Precompute everything that does not depend on the gates.

        Args:
            view: The site.
            given: Batches of inputs on the model's device, each with its targets.
            score: The loss of each example.
            scoring: How candidates are evaluated.
            pick: Takes the outputs that are scored from what the network returns.

        Raises:
            CalibrationError: If there are no batches.
            UnsupportedModel: If the network cannot be evaluated for several candidates at once.
        """
        self.size, self.facts = view.site.width, frozenset()
        self._device, self._scoring, self._n_batches = view.network.device, scoring, len(given)
        if not everywhere(bool(given), self._device):
            raise CalibrationError(
                "the calibration data are empty; give at least one batch (of inputs and labels, if the objective is "
                "'task_loss'; to every process, if there are several)"
            )
        self._losses = ExampleLosses(GatedSite(view, pick), given, score, scoring.memory_bytes)
        self._n_examples = self._summed(self._losses.size)

    def start(self) -> _Picks:
        """The state without any unit."""
        points = self._losses.start()
        return self._state(np.zeros(self.size), points, self._losses.losses(points))

    def gains(self, state: _Picks, candidates: IntArray) -> FloatArray:
        """Decrease of the loss by each candidate; for those that are not the best, an upper bound below it."""
        batch = state.n_picks % self._n_batches if self._scoring.fresh_batches else None
        rows = self._losses.rows(batch)
        now, count = self._summed(float(state.losses[rows].sum())), self._summed(len(rows))
        if self._scoring.taylor and state.n_picks:
            slopes = summed(self._losses.slopes(state.points, batch)).cpu().numpy()
            return -slopes[candidates] / (count * (state.n_picks + 1))
        hardest_first = rows[torch.argsort(state.losses[rows], descending=True, stable=True)]
        return (now - self._racing(state, candidates, hardest_first, now)) / count

    def commit(self, state: _Picks, unit: int) -> _Picks:
        """One more pick."""
        counts = state.counts.copy()
        counts[unit] += 1
        points = self._losses.advanced(state.points, state.n_picks, unit)
        return self._state(counts, points, state.seen[unit] if unit in state.seen else self._losses.losses(points))

    def value(self, state: _Picks) -> float:
        """Minus the loss."""
        return state.value

    def weights(self, state: _Picks) -> FloatArray:
        """N c_i / n."""
        return self.size * state.counts / max(state.counts.sum(), 1)

    def mean(self, lost: float) -> float:
        """The mean over the examples of all processes, from the sum over those of this one."""
        return self._summed(lost) / self._n_examples

    def _state(self, counts: FloatArray, points: Points, losses: Tensor) -> _Picks:
        return _Picks(counts, points, losses, -self.mean(float(losses.sum())))

    def _racing(self, state: _Picks, candidates: IntArray, rows: Tensor, now: float) -> FloatArray:
        """The summed loss with each candidate, as far as it matters; stores the losses of complete ones by row."""
        n_together = max(1, len(candidates) // TOGETHER_SHARE)
        blocks = rows.split(max(BLOCK, self._losses.together // n_together))
        seen = torch.full((len(candidates), self._losses.size), torch.nan, dtype=torch.float64, device=self._device)
        units = torch.as_tensor(candidates, device=self._device)

        def run(who: IntArray, terms: IntArray) -> FloatArray:
            taken = [blocks[term] if term < len(blocks) else rows[:0] for term in terms]
            owner = torch.arange(len(who)).repeat_interleave(torch.tensor([len(block) for block in taken]))
            runner, examples = torch.as_tensor(who)[owner].to(rows.device), torch.cat(taken)
            lost = self._losses.lost(state.points, state.n_picks, units[runner], examples)
            seen[runner, examples] = lost
            return summed(lost.new_zeros(len(who)).index_add_(0, owner.to(rows.device), lost)).cpu().numpy()

        sums, complete = racing(len(candidates), largest(len(blocks), self._device), n_together, run, now)
        if len(rows) == self._losses.size:
            state.seen.update((int(candidates[i]), seen[i]) for i in np.flatnonzero(complete))
        return sums

    def _summed(self, number: float) -> float:
        return float(summed(torch.tensor(number, dtype=torch.float64, device=self._device)))
