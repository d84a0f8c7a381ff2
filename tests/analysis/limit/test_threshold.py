"""The limit of pruning from a spectrum: closed forms, invariances and edge cases."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scionet.analysis.limit.spectrum import Spectrum
from scionet.analysis.limit.threshold import limit, requirement, squared_radii
from scionet.analysis.limit.tolerance import Tolerance
from scionet.errors import InvalidSetting


def problem(seed: int, size: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(size), 10 ** rng.uniform(-4, 1, size)


def first_principles(weights: np.ndarray, eigenvalues: np.ndarray, tolerance: float) -> int:
    """Every k by itself."""
    squares, best = sorted(float(w) ** 2 for w in weights), 0
    for k in range(len(squares) + 1):
        square = sum(squares[:k])
        share = sum(1 if square == 0 else 2 * tolerance / (abs(v) * square + 2 * tolerance) for v in eigenvalues)
        if k / len(squares) <= share / len(eigenvalues):
            best = k
    return best


@pytest.mark.parametrize(("a", "density"), [(0.01, 0.9048751), (0.1, 0.7298438), (1, 0.3819660), (2, 0.2679492)])
@pytest.mark.parametrize("size", [200, 20_000])
def test_equal_weights_and_curvatures_have_a_closed_form(a: float, density: float, size: int) -> None:
    """ρ = 1 − (√(a² + 4a) − a)/2 with a = 2ε/(λ D c²)."""
    assert 1 - (math.sqrt(a * a + 4 * a) - a) / 2 == pytest.approx(density, abs=1e-7)
    curvature, weight = 3.0, 0.2
    found = limit(np.full(size, -weight), Spectrum((curvature,), (1.0,)), a * curvature * size * weight**2 / 2)
    assert abs(found.density - density) <= 1 / size


@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(1e-6, 100))
def test_bisection_finds_what_every_k_by_itself_finds(seed: int, size: int, tolerance: float) -> None:
    weights, eigenvalues = problem(seed, size)
    found = limit(weights, Spectrum.of(eigenvalues), tolerance)
    assert found.removed == first_principles(weights, eigenvalues, tolerance)
    assert found.squared_radius == pytest.approx(np.sort(weights**2)[: found.removed].sum())


@given(st.integers(0, 10_000), st.floats(1e-5, 10), st.floats(1.1, 10))
def test_the_limit_falls_with_tolerance_and_rises_with_weights_and_curvature(
    seed: int, tolerance: float, factor: float
) -> None:
    weights, eigenvalues = problem(seed)
    here = limit(weights, Spectrum.of(eigenvalues), tolerance).density
    assert limit(weights, Spectrum.of(eigenvalues), factor * tolerance).density <= here
    assert limit(factor * weights, Spectrum.of(eigenvalues), tolerance).density >= here
    assert limit(weights, Spectrum.of(factor * eigenvalues), tolerance).density >= here


@given(st.integers(0, 10_000), st.floats(1e-5, 10), st.sampled_from([0.25, 2.0, 16.0]))
def test_scaling_order_and_sign_change_nothing(seed: int, tolerance: float, factor: float) -> None:
    weights, eigenvalues = problem(seed)
    here = limit(weights, Spectrum.of(eigenvalues), tolerance)
    scaled = limit(factor * weights, Spectrum.of(eigenvalues / factor**2), tolerance)
    assert scaled.removed == here.removed
    rng = np.random.default_rng(seed)
    assert limit(rng.permutation(weights), Spectrum.of(eigenvalues), tolerance) == here
    assert limit(-weights, Spectrum.of(rng.permutation(eigenvalues)), tolerance).removed == here.removed


def test_a_change_of_basis_changes_nothing() -> None:
    weights, eigenvalues = problem(0, 40)
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((40, 40)))[0]
    turned = np.linalg.eigvalsh(basis @ np.diag(eigenvalues) @ basis.T)
    found = [limit(weights, Spectrum.of(each), 0.1) for each in (eigenvalues, turned)]
    assert found[0].removed == found[1].removed
    assert found[0].dimension == pytest.approx(found[1].dimension, rel=1e-10)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.floats(1e-6, 1e3), st.floats(1e-6, 10))
def test_the_trace_form_needs_at_least_the_density_of_the_whole_spectrum(
    values: list[float], square: float, tolerance: float
) -> None:
    spectrum = Spectrum.of(np.array(values))
    assert spectrum.averaged.dimension(square, tolerance) <= spectrum.dimension(square, tolerance) + 1e-12


def test_both_forms_are_equal_only_for_equal_eigenvalues() -> None:
    isotropic, other = Spectrum.of(np.array([2.0, -2.0, 2.0])), Spectrum.of(np.array([1.0, 3.0]))
    assert isotropic.averaged.dimension(3.0, 0.1) == pytest.approx(isotropic.dimension(3.0, 0.1), rel=1e-14)
    assert other.averaged.dimension(3.0, 0.1) < other.dimension(3.0, 0.1) - 1e-3


@pytest.mark.parametrize(("q", "formula"), [(0.1, 0.0909), (0.25, 0.2), (0.5, 0.3333), (0.9, 0.4737)])
def test_a_ball_of_radius_r_has_q_over_one_plus_q(q: float, formula: float) -> None:
    """q = r²/R²; the exact dimension is q, so that the formula asks for too much density."""
    found = Spectrum((1.0,), (1.0,)).dimension(1.0, q / 2)
    assert found == pytest.approx(formula, abs=5e-5)
    assert found < q


@pytest.mark.parametrize(("q", "measured"), [(0.1, 0.102), (0.25, 0.251), (0.5, 0.500), (0.9, 0.897)])
def test_the_cone_of_a_ball_measured(q: float, measured: float) -> None:
    """Mean squared norm of a Gaussian vector's projection on the cone of the ball, over the dimension."""
    size, draws = 400, 400
    rng = np.random.default_rng(0)
    height = rng.standard_normal(draws)
    across = np.sqrt(rng.chisquare(size - 1, draws))
    angle = math.asin(math.sqrt(q))  # a ball of radius r seen from distance R fills the cone of half-angle asin r/R
    turned = np.clip(np.arctan2(across, height) - angle, 0, np.pi / 2)
    found = ((height**2 + across**2) * np.cos(turned) ** 2).mean() / size
    assert found == pytest.approx(measured, abs=0.01)


def test_edge_cases() -> None:
    weights, eigenvalues = problem(3)
    curved = Spectrum.of(eigenvalues)
    assert limit(weights, curved, 0.0).density == 1
    assert limit(weights, Spectrum((0.0, 1.0), (0.5, 0.5)), 0.0).density == 1
    assert limit(weights, Spectrum((0.0,), (1.0,)), 1e-9).density == 0
    assert limit(np.zeros(7), curved, 0.0).density == 0
    assert limit(np.append(weights, np.zeros(30)), curved, 0.0).removed == 30
    assert curved.dimension(0.0, 0.0) == 1
    flat = Spectrum((-1.0, 1.0), (0.25, 0.75))
    assert flat.dimension(1.0, 0.5, "flat") == 0.25 + 0.75 / 2
    assert flat.dimension(1.0, 0.5) == 0.5
    assert (flat.negative_share, flat.zero_share) == (0.25, 0.0)


def test_the_curve_crosses_at_the_limit() -> None:
    weights, eigenvalues = problem(4)
    spectrum = Spectrum.of(eigenvalues)
    found, curve = limit(weights, spectrum, 0.5), requirement(weights, spectrum, 0.5, points=len(weights) + 1)
    removable = [kept for kept, needed in zip(curve.densities, curve.needed, strict=True) if kept >= needed]
    assert min(removable) == pytest.approx(found.density)
    assert all(a <= b for a, b in zip(curve.needed, curve.needed_trace, strict=True))
    assert (curve.densities[0], curve.densities[-1], curve.needed[0]) == (1, 0, 0)
    assert squared_radii(weights)[-1] == pytest.approx((weights**2).sum())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: limit(np.zeros(0), Spectrum((1.0,), (1.0,)), 1), "there are none"),
        (lambda: limit(np.array([np.inf]), Spectrum((1.0,), (1.0,)), 1), "NaN or infinite"),
        (lambda: limit(np.ones(3), Spectrum((1.0,), (1.0,)), -1), "0 or more; given -1"),
        (lambda: Spectrum((), ()), "one or more; given 0"),
        (lambda: Spectrum((1.0,), (0.5,)), "sum to 1"),
        (lambda: Spectrum((np.nan,), (1.0,)), "finite"),
        (lambda: Spectrum((1.0,), (1.0,)).with_zeros(1.5), "between 0 and 1"),
        (lambda: Tolerance.parse("large"), "'batch_std'; given 'large'"),
        (lambda: Tolerance.parse(-0.1), "0 or more"),
        (lambda: Tolerance.parse("batch_std").value(1.0, np.ones(1)), "two batches"),
    ],
)
def test_what_is_wrong_is_said(make, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        make()


def test_rules_for_the_tolerance() -> None:
    losses = np.array([1.0, 2.0, 4.0])
    assert Tolerance.parse("5%").value(2.0, losses) == pytest.approx(0.1)
    assert Tolerance.parse("0.25").value(2.0, losses) == 0.25
    assert Tolerance.parse("batch_std").value(2.0, losses) == pytest.approx(np.sqrt(14 / 9))
