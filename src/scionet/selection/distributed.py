"""Greedy selection in two rounds over many workers: each picks from its share, then one picks from what they picked."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scionet.backends import configured
from scionet.errors import InvalidSetting
from scionet.extras import extra
from scionet.selection.greedy import Selection, greedy
from scionet.selection.objective import Fact, IntArray, Objective
from scionet.selection.policies import EXACT, Policy
from scionet.settings import BackendName


@dataclass(frozen=True)
class TwoRounds:
    """What both rounds found.

    Attributes:
        selection: The best of the second round and of all workers.
        partition: The units that each worker chose from, ascending; some may be empty.
        local: What each worker found.
        merged: What the second round found among the workers' picks.
    """

    selection: Selection
    partition: tuple[tuple[int, ...], ...]
    local: tuple[Selection, ...]
    merged: Selection


def distributed(
    objective: Objective[Any],
    n_units: int,
    *,
    n_partitions: int,
    seed: int,
    policy: Policy = EXACT,
    n_jobs: int | None = None,
    backend: BackendName = "loky",
) -> TwoRounds:
    """Pick up to `n_units` of each random share of the units in parallel, then `n_units` of all that were picked.

    The result depends on the seed and the number of partitions, not on backend or number of workers. One partition is
    plain greedy.

    Source: Khanna et al., *Scalable Greedy Feature Selection via Weak Submodularity*, AISTATS 2017, and Mirzasoleiman
    et al., *Distributed Submodular Maximization*, NIPS 2013 (GreeDi). The best worker's set is kept where it beats the
    second round: the guarantee of both papers, ``E f >= (nu / 2) (1 - exp(-gamma)) f(OPT)``, rests on that.

    Args:
        objective: What to maximise; must be a set function, and is sent to the workers.
        n_units: Number of units to keep.
        n_partitions: Number of shares.
        seed: Decides the shares, and the samples of a stochastic policy.
        policy: Which candidates are looked at in each step of both rounds.
        n_jobs: Number of workers; None for as many as the backend has.
        backend: Of joblib. ``"ray"`` and ``"dask"`` use the cluster that was connected before (or a local one).

    Raises:
        InvalidSetting: If a number is out of range, the backend is unknown, or the objective is not weakly submodular.
        MissingExtra: If joblib or the backend is not installed.
    """
    if n_partitions < 1 or n_units < 0:
        raise InvalidSetting(
            f"n_partitions must be at least 1 and n_units at least 0; given {n_partitions} and {n_units}"
        )
    if Fact.WEAKLY_SUBMODULAR not in objective.facts:
        raise InvalidSetting(
            f"distributed selection needs a weakly submodular set function; {type(objective).__name__} is none: take "
            "one partition"
        )
    shares = _shares(objective.size, n_partitions, seed)
    generators = [np.random.default_rng([seed, number]) for number in range(n_partitions + 1)]
    if n_partitions == 1:
        whole = greedy(objective, n_units, policy=policy, rng=generators[0])
        return TwoRounds(whole, (tuple(range(objective.size)),), (whole,), whole)
    with configured(backend, n_jobs):
        with extra("workers"):
            from joblib import Parallel, delayed
        jobs = [
            delayed(greedy)(objective, n_units, policy=policy, among=share, rng=generator)
            for share, generator in zip(shares, generators[1:], strict=True)
        ]
        local: Any = list(Parallel()(jobs))
    union = np.unique(np.concatenate([np.array(found.kept, dtype=np.int64) for found in local]))
    merged = greedy(objective, n_units, policy=policy, among=union, rng=generators[0])
    empty = objective.value(objective.start())
    winner = max((merged, *local), key=lambda found: found.values[-1] if found.values else empty)
    return TwoRounds(winner, tuple(tuple(share.tolist()) for share in shares), tuple(local), merged)


def _shares(size: int, n_partitions: int, seed: int) -> list[IntArray]:
    """Each unit at a worker of its own choice, independently and uniformly; units of a share ascend."""
    at = np.random.default_rng([seed, n_partitions, size]).integers(n_partitions, size=size)
    return [np.flatnonzero(at == number) for number in range(n_partitions)]
