"""Distributed selection in two rounds."""

from typing import Any

import numpy as np
import pytest
from support.selection_problems import layer

from scionet.errors import InvalidSetting, MissingExtra
from scionet.selection.distributed import TwoRounds, distributed
from scionet.selection.greedy import greedy
from scionet.selection.policies import Lazy, StochasticPolicy
from scionet.selection.quadratic import LineSearchObjective
from scionet.selection.setfunctions import Coverage, Modular, RSquared


def coverage(seed: int = 0, size: int = 200) -> Coverage:
    rng = np.random.default_rng(seed)
    return Coverage(rng.random((size, 400)) < 0.03, rng.random(400))


def regression(seed: int = 0) -> RSquared:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, 4)) @ rng.standard_normal((4, 24)) + rng.standard_normal((60, 24))
    return RSquared(x, x[:, :5].sum(axis=1) + rng.standard_normal(60))


def run(objective, n_units: int = 6, partitions: int = 4, seed: int = 0, **options) -> TwoRounds:
    return distributed(objective, n_units, partitions=partitions, seed=seed, **{"backend": "sequential", **options})


@pytest.mark.parametrize("objective", [coverage(), regression()], ids=["coverage", "regression"])
def test_one_partition_is_greedy(objective) -> None:
    assert run(objective, partitions=1).selection == greedy(objective, 6)


@pytest.mark.parametrize("objective", [coverage(), regression()], ids=["coverage", "regression"])
def test_both_rounds_by_definition(objective) -> None:
    found = run(objective)
    assert sorted(unit for share in found.partition for unit in share) == list(range(objective.size))
    picked = set()
    for share, local in zip(found.partition, found.local, strict=True):
        assert local == greedy(objective, 6, among=np.array(share))
        assert set(local.kept) <= set(share)
        picked |= set(local.kept)
    assert found.merged == greedy(objective, 6, among=np.array(sorted(picked)))
    assert found.selection.values[-1] == max(f.values[-1] for f in (found.merged, *found.local))


def test_the_result_depends_on_the_seed_and_not_on_the_backend() -> None:
    objective = regression()
    options = {"policy": StochasticPolicy(0.3)}
    first = run(objective, seed=1, **options)
    for backend, workers in (("sequential", 1), ("threading", 2), ("threading", 3), ("loky", 2)):
        assert run(objective, seed=1, backend=backend, workers=workers, **options) == first
    assert run(objective, seed=2, **options).partition != first.partition


class Jealous(RSquared):
    """Mixing units of two kinds lowers the value, so that the second round loses to a worker."""

    def __init__(self, kinds: np.ndarray) -> None:
        super().__init__(np.eye(len(kinds) + 1)[:, :-1], np.arange(len(kinds) + 1.0))
        self.kinds = kinds
        self.worth = np.where(kinds == 0, 1.0, 0.9)

    def gains(self, state: Any, candidates: Any) -> Any:
        before = self.value(state)
        return np.array([self._value(np.append(np.flatnonzero(state.chosen), c)) for c in candidates]) - before

    def value(self, state: Any) -> float:
        return self._value(np.flatnonzero(state.chosen))

    def _value(self, units: Any) -> float:
        worth = self.worth[np.unique(units)]
        # the unit of kind 0 is the best first pick, but lowers the value of the others
        return float(worth.max() if len(set(self.kinds[units])) == 2 else worth.sum())


def test_a_worker_that_beats_the_second_round_wins() -> None:
    alone = run(coverage(size=40), n_units=2, partitions=3).partition
    kinds = np.ones(40, dtype=int)
    kinds[alone[0][0]] = 0
    found = run(Jealous(kinds), n_units=2, partitions=3)
    assert found.partition == alone
    assert found.merged.values[-1] == pytest.approx(1.0)
    assert found.selection in found.local
    assert found.selection.values[-1] == pytest.approx(1.8)


def test_empty_shares_too_many_units_and_no_units() -> None:
    tiny = Modular(np.array([3.0, 1.0, 2.0]))
    found = run(tiny, n_units=2, partitions=8)
    assert any(not share for share in found.partition)
    assert found.selection.kept == (0, 2)
    assert run(tiny, n_units=5, partitions=2).selection.kept == (0, 1, 2)
    assert run(tiny, n_units=0, partitions=2).selection.kept == ()
    assert run(coverage(), policy=Lazy()) == run(coverage())


def test_two_rounds_come_close_to_plain_greedy() -> None:
    for seed in range(5):
        objective = coverage(seed)
        assert run(objective, 15, 5, seed=seed).selection.values[-1] > 0.97 * greedy(objective, 15).values[-1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"partitions": 0}, "partitions must be at least 1"),
        ({"n_units": -1}, "n_units at least 0"),
        ({"backend": "spark"}, "backend must be one of loky, threading, sequential, ray, dask; given 'spark'"),
    ],
)
def test_wrong_numbers_and_backends(options, text) -> None:
    with pytest.raises(InvalidSetting, match=text):
        run(coverage(), **options)


def test_objectives_that_are_not_set_functions_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="LineSearchObjective is not one: use partitions=1"):
        run(LineSearchObjective([layer(0).term]))


def test_a_missing_backend_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(MissingExtra, match=r"pip install 'scionet\[dask\]'"):
        run(coverage(), backend="dask")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ray's own
def test_a_real_local_ray_with_two_workers() -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        objective = regression()
        assert run(objective, backend="ray", workers=2) == run(objective)
    finally:
        ray.shutdown()
