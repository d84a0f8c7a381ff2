"""IncReg on arrays: its published increments and step counts, and a slow version, site by site."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scionet.sparse_training.averaged_ranks import AveragedRanks, increments


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def exponential(ranks: list[float], to_go: int, u: float) -> list[float]:
    row = torch.tensor([ranks], dtype=torch.float64)
    return increments(row, column(to_go), column(100), 1.0, u, "exponential")[0].tolist()


@pytest.mark.parametrize(("u", "turn"), [(0.1, 0.7686), (0.25, 0.6667), (0.5, 0.5), (0.9, 0.1319)])
def test_the_exponential_increment_has_its_three_points_and_its_symmetry(u: float, turn: float) -> None:
    middle = -math.log(u) * 20 / math.log(2 / u)
    assert middle / 20 == pytest.approx(turn, abs=5e-5)
    first, at_turn, last, beyond = exponential([0, middle, 20, 2 * middle], 20, u)
    assert (first, at_turn, beyond) == pytest.approx((1, u, 2 * u - 1))
    assert last == pytest.approx(0, abs=1e-12)
    for distance in (0.1, 0.5, 0.9):
        before, after = exponential([middle * (1 - distance), middle * (1 + distance)], 20, u)
        assert before + after == pytest.approx(2 * u)


@pytest.mark.parametrize(
    ("u", "ranks", "wanted"),
    [(0.25, [5, 10, 30, 40], [0.59460, 0.35355, -0.91421, -3.5]), (0.1, [10, 40], [0.22361, -3.8])],
)
def test_values_of_the_exponential_increment(u: float, ranks: list[float], wanted: list[float]) -> None:
    assert exponential(ranks, 20, u) == pytest.approx(wanted, abs=1e-5)


def test_ranks_far_beyond_overflow_nothing() -> None:
    assert all(math.isfinite(value) for value in exponential([1e4, 1e6], 2, 0.25))


def test_the_linear_increment() -> None:
    row = torch.arange(6, dtype=torch.float64)[None]
    assert increments(row, column(2), column(6), 2.0, 0.25, "linear")[0].tolist() == pytest.approx(
        [2, 1, 0, -2 / 3, -4 / 3, -2]
    )
    assert increments(row, column(5), column(6), 1.0, 0.25, "linear")[0].tolist()[-1] == 0  # n - 1 - K is 0


@pytest.mark.parametrize(
    ("units", "going", "scheme", "steps"),
    [
        (64, 48, "exponential", 1062),
        (10, 5, "exponential", 529),
        (10, 5, "linear", 457),
        (64, 6, "exponential", 570),
        (64, 6, "linear", 491),
    ],
)
def test_with_fixed_ranks_units_go_after_the_published_steps(units, going, scheme, steps) -> None:
    largest = 2.5e-4
    ranks = AveragedRanks(torch.tensor([units]), torch.tensor([going]), largest, 200 * largest, scheme=scheme)
    scores = torch.randperm(units, generator=torch.Generator().manual_seed(0))[None].double()
    first = 0
    while not ranks.finished:
        if bool(ranks.update(scores).any()) and not first:
            first = ranks.updates
    assert (first, ranks.updates) == (200, steps)
    assert ranks.removed[0].nonzero().flatten().tolist() == sorted(scores[0].argsort()[:going].tolist())
    assert float(ranks.decays[~ranks.removed].max()) <= 1e-12


def slow(
    scores: list[list[float]], going: int, largest: float, target: float, u: float
) -> tuple[list[float], set[int]]:
    """One site as the specification writes it, one unit at a time."""
    n = len(scores[0])
    decay, mean, gone = [0.0] * n, [Fraction(0)] * n, set[int]()
    for t, row in enumerate(scores, 1):
        left = going - len(gone)
        if left == 0:
            break
        live = [g for g in range(n) if g not in gone]
        by_score = sorted(live, key=lambda g: (row[g], g))
        for place, g in enumerate(by_score):
            mean[g] = (mean[g] * (t - 1) + len(gone) + place) / t
        order = sorted(live, key=lambda g: (mean[g], g))
        alpha = math.log(2 / u) / left
        turn = -math.log(u) / alpha
        for r, g in enumerate(order):
            step = math.exp(-alpha * r) if r < turn else 2 * u - math.exp(-alpha * (2 * turn - r))
            decay[g] = max(decay[g] + largest * step, 0)
        gone |= set([g for g in order if decay[g] >= target * (1 - 1e-9)][:left])
    return decay, gone


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(2, 7), st.integers(2, 7), st.data())
def test_all_sites_together_equal_each_site_by_itself(seed: int, first: int, second: int, data) -> None:
    counts = [data.draw(st.integers(0, width - 1)) for width in (first, second)]
    generator = torch.Generator().manual_seed(seed)
    history = [torch.rand(2, max(first, second), generator=generator, dtype=torch.float64) for _ in range(40)]
    ranks = AveragedRanks(torch.tensor([first, second]), torch.tensor(counts), 0.125, 1.0)
    for scores in history:
        ranks.update(scores)
    for row, (width, count) in enumerate(zip((first, second), counts, strict=True)):
        decays, gone = slow([scores[row, :width].tolist() for scores in history], count, 0.125, 1.0, 0.25)
        assert set(ranks.removed[row].nonzero().flatten().tolist()) == gone
        assert len(gone) <= count
        assert ranks.decays[row, :width].tolist() == pytest.approx(decays, abs=1e-9)
    assert float(ranks.decays.min()) >= 0
