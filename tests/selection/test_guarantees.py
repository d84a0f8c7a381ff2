"""Guarantees against brute force on small problems."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.selection_problems import layer, suppressor

from scionet.errors import InvalidSetting
from scionet.selection.distributed import distributed
from scionet.selection.greedy import greedy
from scionet.selection.guarantees import (
    best_possible,
    certified_share,
    distributed_factor,
    greedy_factor,
    set_value,
    stochastic_factor,
    submodularity_ratio,
)
from scionet.selection.policies import StochasticPolicy
from scionet.selection.quadratic import AverageObjective, LeastSquaresObjective
from scionet.selection.setfunctions import Coverage, RSquared


def regression(seed: int) -> tuple[RSquared, np.ndarray]:
    """An objective with ten noisy columns of four factors, and the columns' correlations."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, 4)) @ rng.standard_normal((4, 10)) + 0.5 * rng.standard_normal((40, 10))
    x -= x.mean(axis=0)
    x /= np.linalg.norm(x, axis=0)
    b = np.zeros(10)
    b[rng.choice(10, 4, replace=False)] = rng.standard_normal(4)
    y = x @ b
    y = y / np.linalg.norm(y) + 0.3 * rng.standard_normal(40) / math.sqrt(40)
    return RSquared(x, y), x.T @ x


def optimum(objective, k: int) -> float:
    return max(set_value(objective, units) for units in combinations(range(objective.size), k))


def least_principal_eigenvalue(gram: np.ndarray, size: int) -> float:
    sets = combinations(range(len(gram)), size)
    return min(float(np.linalg.eigvalsh(gram[np.ix_(s, s)])[0]) for s in sets)


def test_the_suppressor_has_the_known_ratio() -> None:
    objective = LeastSquaresObjective([suppressor()], ridge=0.0)
    values = {s: 1 + set_value(objective, s) for s in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2))}
    expected = {(0,): 0.5, (1,): 0.0, (2,): 0.2025, (0, 1): 1.0, (0, 2): 0.556328, (1, 2): 0.2025}
    assert values == pytest.approx(expected, abs=1e-6)
    assert submodularity_ratio(objective, (), 2) == pytest.approx(0.5)
    assert submodularity_ratio(objective, (0, 1, 2), 2) == pytest.approx(0.443672, abs=1e-6)
    assert objective.spectral_ratio() == pytest.approx(0.224597, abs=1e-6)
    assert least_principal_eigenvalue(suppressor().xx, 2) == pytest.approx(0.292893, abs=1e-6)


@pytest.mark.slow
def test_bounds_hold_on_twenty_regressions_and_means_are_as_expected() -> None:
    shares: dict[str, list[float]] = {"greedy": [], "stochastic": [], "distributed": [], "gamma": []}
    for seed in range(20):
        objective, gram = regression(seed)
        best, found = optimum(objective, 3), greedy(objective, 3)
        gamma = submodularity_ratio(objective, found.kept, 3)
        assert gamma >= least_principal_eigenvalue(gram, 6) - 1e-9
        assert objective.spectral_ratio() <= gamma + 1e-9
        assert found.values[-1] >= greedy_factor(gamma) * best - 1e-12
        assert best_possible(objective, found.kept, gamma) >= best - 1e-9
        assert best_possible(objective, found.kept, objective.spectral_ratio()) >= best - 1e-9
        assert certified_share(objective, found, gamma) <= found.values[-1] / best + 1e-9
        shares["greedy"].append(found.values[-1] / best)
        shares["gamma"].append(gamma)
        for repeat in range(5):
            some = greedy(objective, 3, policy=StochasticPolicy(0.1), rng=np.random.default_rng([seed, repeat]))
            shares["stochastic"].append(some.values[-1] / best)
            two = distributed(objective, 3, partitions=3, seed=repeat, backend="sequential")
            shares["distributed"].append(two.selection.values[-1] / best)
    means = {name: float(np.mean(values)) for name, values in shares.items()}
    expected = {"greedy": 0.971, "stochastic": 0.967, "distributed": 0.972, "gamma": 0.146}
    assert means == pytest.approx(expected, abs=0.02)
    assert min(shares["greedy"]) == pytest.approx(0.852, abs=0.02)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_submodular_functions_have_ratio_one_and_hold_their_certificate(seed) -> None:
    rng = np.random.default_rng(seed)
    objective = Coverage(rng.random((8, 20)) < 0.3, rng.random(20))
    assert submodularity_ratio(objective, (0, 3, 5), 3) >= 1 - 1e-9
    found = greedy(objective, 3)
    best = optimum(objective, 3)
    assert best_possible(objective, found.kept) >= best - 1e-9
    assert found.values[-1] >= greedy_factor() * best - 1e-12
    assert greedy_factor() - 1e-12 <= certified_share(objective, found) <= found.values[-1] / best + 1e-9


@given(seed=st.integers(0, 10**6), width=st.integers(1, 2), fixed=st.integers(0, 2))
@settings(max_examples=15, deadline=None)
def test_the_spectral_ratio_bounds_blocks_with_fixed_inputs_and_several_terms(seed, width, fixed) -> None:
    terms = [layer(seed + n, size=5, width=width, n_fixed=fixed).term for n in range(2)]
    objective = LeastSquaresObjective(terms, ridge=1e-3)
    assert 0 <= objective.spectral_ratio() <= submodularity_ratio(objective, (0, 1, 2, 3, 4), 5) + 1e-9


def test_a_unit_that_is_always_zero_leaves_no_guarantee() -> None:
    term = suppressor()
    empty = np.zeros((3, 3))
    objective = LeastSquaresObjective(
        [type(term)(empty, term.xy * 0, 1.0, term.columns, term.fixed, term.weight)], ridge=0.0
    )
    assert objective.spectral_ratio() == 0.0
    assert best_possible(objective, (0,), 0.0) == set_value(objective, (0, 1, 2))


def test_factors() -> None:
    assert greedy_factor() == pytest.approx(1 - 1 / math.e)
    assert stochastic_factor(0.1) >= greedy_factor() - 0.1
    assert stochastic_factor(1e-9, 0.3) == pytest.approx(greedy_factor(0.3))
    assert distributed_factor() == pytest.approx((1 - 1 / math.e) / 2)
    for call in (
        lambda: greedy_factor(-0.1),
        lambda: stochastic_factor(1.0),
        lambda: distributed_factor(nu=-1),
        lambda: submodularity_ratio(AverageObjective([layer(0).term]), (), 2),
        lambda: best_possible(AverageObjective([layer(0).term]), (0,)),
    ):
        with pytest.raises(InvalidSetting, match=r"given|not one"):
            call()
