"""Distributed greedy selection: each worker selects from its share, then one selection merges the workers' picks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scionet.backends import configured
from scionet.choices.resources import BackendName
from scionet.errors import InvalidSetting
from scionet.extras import extra
from scionet.selection.greedy import Selection, greedy
from scionet.selection.objective import Fact, Objective
from scionet.selection.policies import EXACT, Policy
from scionet.typing import IntArray


@dataclass(frozen=True)
class TwoRounds:
    """The selections of both rounds.

    Attributes:
        selection: The best of the merged selection and the workers' selections.
        partition: The units of each worker's share, ascending; a share may be empty.
        local: Each worker's selection.
        merged: The second round's selection from the workers' picks.
    """

    selection: Selection
    partition: tuple[tuple[int, ...], ...]
    local: tuple[Selection, ...]
    merged: Selection


def distributed(
    objective: Objective[Any],
    n_units: int,
    *,
    partitions: int,
    seed: int,
    policy: Policy = EXACT,
    workers: int | None = None,
    backend: BackendName = "loky",
) -> TwoRounds:
    """Select up to `n_units` from each random share of the units in parallel, then `n_units` from all picks.

    The result depends on the seed and the number of partitions, not on the backend or the number of workers. With one
    partition it is plain greedy selection.

    Source: Khanna et al., *Scalable Greedy Feature Selection via Weak Submodularity*, AISTATS 2017, and Mirzasoleiman
    et al., *Distributed Submodular Maximization*, NIPS 2013 (GreeDi). The best worker's set is returned if it beats the
    second round. The guarantee of both papers, ``E f >= (nu / 2) (1 - exp(-gamma)) f(OPT)``, requires this.

    Args:
        objective: Objective to maximise; must be a set function. It is sent to the workers.
        n_units: Number of units to keep.
        partitions: Number of shares.
        seed: Seed of the partition and of the samples of a stochastic policy.
        policy: Which candidates are evaluated at each step of both rounds.
        workers: Number of workers. None uses all that the backend offers.
        backend: Joblib backend. ``"ray"`` and ``"dask"`` use the connected cluster, or a local one.

    Raises:
        InvalidSetting: If a number is out of range, the backend is unknown, or the objective is not weakly submodular.
        MissingExtra: If joblib or the backend is not installed.
    """
    if partitions < 1 or n_units < 0:
        raise InvalidSetting(f"partitions must be at least 1 and n_units at least 0; given {partitions} and {n_units}")
    if Fact.WEAKLY_SUBMODULAR not in objective.facts:
        raise InvalidSetting(
            f"distributed selection requires a weakly submodular set function; {type(objective).__name__} is not one: "
            "use partitions=1"
        )
    shares = _shares(objective.size, partitions, seed)
    generators = [np.random.default_rng([seed, number]) for number in range(partitions + 1)]
    if partitions == 1:
        whole = greedy(objective, n_units, policy=policy, rng=generators[0])
        return TwoRounds(whole, (tuple(range(objective.size)),), (whole,), whole)
    with configured(backend, workers):
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


def _shares(size: int, partitions: int, seed: int) -> list[IntArray]:
    """Assign each unit to a share independently and uniformly at random; units within a share ascend."""
    share_of_unit = np.random.default_rng([seed, partitions, size]).integers(partitions, size=size)
    return [np.flatnonzero(share_of_unit == number) for number in range(partitions)]
