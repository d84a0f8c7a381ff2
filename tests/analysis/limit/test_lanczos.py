"""Quadrature, the atom at 0 and the trace, against dense matrices."""

import numpy as np
import pytest
import torch
from torch import Tensor

from scionet.analysis.limit.lanczos import Quadrature, active_coordinates, hutchinson, lanczos, quadratures, signs
from scionet.analysis.limit.spectrum import Spectrum
from scionet.errors import InvalidSetting

LIKE = torch.zeros(60, dtype=torch.float64)


def symmetric(size: int, seed: int = 0) -> Tensor:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root + root.T


def moments(spectrum: Spectrum, powers: int) -> np.ndarray:
    return np.array([np.dot(spectrum.shares, np.array(spectrum.values) ** p) for p in range(powers)])


def test_the_first_moments_are_exact() -> None:
    matrix, start = symmetric(60), signs(LIKE, 0, 0)
    found = lanczos(lambda v: matrix @ v, start, 6)
    assert found.steps == len(found.spectrum.values) == 6
    assert min(found.spectrum.shares) >= 0
    powers, expected = start.clone(), []
    for _ in range(12):
        expected.append(float(start @ powers) / 60)
        powers = matrix @ powers
    np.testing.assert_allclose(moments(found.spectrum, 12), expected, rtol=1e-12, atol=1e-12 * abs(expected[-1]))


def test_quadrature_is_exact_with_as_many_steps_as_distinct_eigenvalues() -> None:
    values = torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64)[torch.arange(60) % 3]
    basis = torch.linalg.qr(symmetric(60))[0]
    matrix = basis @ torch.diag(values) @ basis.T
    found = lanczos(lambda v: matrix @ v, signs(LIKE, 1, 0), 40)
    assert found.steps == 3
    np.testing.assert_allclose(found.spectrum.values, [-1, 0.5, 3], rtol=1e-10)
    assert found.residual < 1e-8


def test_the_extreme_nodes_converge_to_the_extreme_eigenvalues() -> None:
    matrix = symmetric(60, 2)
    values = torch.linalg.eigvalsh(matrix)
    found = lanczos(lambda v: matrix @ v, signs(LIKE, 0, 0), 45)
    assert (found.spectrum.values[0], found.spectrum.values[-1]) == pytest.approx(
        (float(values[0]), float(values[-1])), rel=1e-8
    )
    early = lanczos(lambda v: matrix @ v, signs(LIKE, 0, 0), 8)
    largest = max(early.spectrum.values, key=abs)
    assert float((values - largest).abs().min()) <= early.residual * (1 + 1e-9)


def test_all_steps_find_all_eigenvalues() -> None:
    """Without orthogonalising again, the largest eigenvalues would appear several times."""
    eigenvalues = torch.logspace(-4, 3, 60, dtype=torch.float64)
    found = lanczos(lambda v: eigenvalues * v, signs(LIKE, 0, 0), 60)
    np.testing.assert_allclose(found.spectrum.values, eigenvalues.numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.spectrum.shares, 1 / 60, rtol=1e-3)


def test_the_trace_is_that_of_the_same_vector() -> None:
    matrix = symmetric(60, 3)
    trace = hutchinson(lambda v: matrix @ v, LIKE, 5, 1)
    (found,) = quadratures(lambda v: matrix @ v, LIKE == 0, LIKE, 5, 10, 1)
    assert 60 * moments(found.spectrum, 2)[1] == pytest.approx(trace.value, rel=1e-12)
    assert trace.standard_error is None


def test_the_trace_of_many_vectors_lies_within_its_error() -> None:
    matrix = symmetric(60, 4)
    found = hutchinson(lambda v: matrix @ v, LIKE, 0, 400)
    assert found.standard_error is not None
    assert abs(found.value - float(matrix.trace())) < 4 * found.standard_error
    exact = float(((2 * matrix.square()).sum() - (2 * matrix.diagonal().square()).sum()).sqrt())
    assert found.standard_error == pytest.approx(exact / 20, rel=0.15)


def test_a_block_of_zeros_is_an_atom() -> None:
    block = symmetric(18, 5)
    matrix = torch.block_diag(torch.zeros(42, 42, dtype=torch.float64), block)
    active = active_coordinates(lambda v: matrix @ v, LIKE, 0)
    assert active.tolist() == [False] * 42 + [True] * 18
    (found,) = quadratures(lambda v: matrix @ v, active, LIKE, 0, 128, 1)
    assert found.spectrum.zero_share == pytest.approx(0.7)
    np.testing.assert_allclose(
        np.sort(found.spectrum.values[:-1]), torch.linalg.eigvalsh(block).numpy(), rtol=1e-8, atol=1e-10
    )


def test_rows_are_judged_relative_to_the_largest() -> None:
    scale = torch.logspace(-12, 0, 60, dtype=torch.float64)
    for factor in (1e-20, 1e20):
        assert active_coordinates(lambda v: factor * scale * v, LIKE, 0).all()  # noqa: B023


def test_a_matrix_of_zeros_is_flat() -> None:
    active = active_coordinates(torch.zeros_like, LIKE, 0)
    assert not active.any()
    assert quadratures(torch.zeros_like, active, LIKE, 0, 8, 2) == [Quadrature(Spectrum((0.0,), (1.0,)), 0, 0.0)] * 2


def test_the_seed_decides() -> None:
    matrix = symmetric(60)
    runs = [quadratures(lambda v: matrix @ v, LIKE == 0, LIKE, seed, 12, 2) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]


def test_products_in_float32() -> None:
    values = torch.tensor([0.0, 2.0, 5.0])[torch.arange(60) % 3]
    active = active_coordinates(lambda v: values * v, LIKE.float(), 0)
    (found,) = quadratures(lambda v: values * v, active, LIKE.float(), 0, 30, 1)
    assert found.steps == 2
    assert found.spectrum.zero_share == pytest.approx(1 / 3)
    assert found.spectrum.values[:2] == pytest.approx((2, 5), rel=1e-5)


def hard(seed: int) -> np.ndarray:
    """4,000 eigenvalues: 70 % exact zeros, the others over six decades, some large, some negative."""
    rng = np.random.default_rng(seed)
    active = 10 ** rng.uniform(-6, 0, 1200)
    active[:30] = rng.uniform(5, 50, 30)
    active[30:70] *= -1
    return np.concatenate([np.zeros(2800), active])


@pytest.fixture(scope="module")
def found() -> tuple[Spectrum, Spectrum, Spectrum]:
    """The exact spectrum, the quadrature with its atom, and the quadrature without.

    The error depends on where nodes fall around 0. In other draws it reaches 0.06 at R² = 100.
    """
    values = hard(2)
    diagonal = torch.from_numpy(values)
    active = active_coordinates(lambda v: diagonal * v, diagonal, 0)
    assert active.double().mean() == pytest.approx(0.3)
    (atom,) = quadratures(lambda v: diagonal * v, active, diagonal, 0, 96, 1)
    (plain,) = quadratures(lambda v: diagonal * v, torch.ones_like(active), diagonal, 0, 96, 1)
    return Spectrum.of(values), atom.spectrum, plain.spectrum


@pytest.mark.parametrize(
    ("tolerance", "square", "exact"), [(1e-3, 1, 0.856), (1e-2, 1, 0.906), (1e-2, 100, 0.807), (1e-2, 1e4, 0.722)]
)
def test_the_atom_keeps_the_dimension_of_a_matrix_with_many_zeros(found, tolerance, square, exact) -> None:
    whole, atom, _ = (each.dimension(square, tolerance) for each in found)
    assert whole == pytest.approx(exact, abs=0.01)
    assert abs(atom - whole) <= 0.03


def test_without_the_atom_the_dimension_is_lost_and_with_two_it_is_too_large(found) -> None:
    whole, atom, plain = found
    assert abs(plain.dimension(1e4, 1e-2) - whole.dimension(1e4, 1e-2)) > 0.1
    assert plain.with_zeros(0.7).dimension(1, 1e-3) == pytest.approx(0.958, abs=0.01)
    assert plain.with_zeros(0.7).dimension(1, 1e-3) - whole.dimension(1, 1e-3) > 0.05
    assert atom.zero_share == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lanczos(torch.zeros_like, LIKE, 3), "other than 0"),
        (lambda: lanczos(torch.zeros_like, LIKE + 1, 0), "a step or more"),
        (lambda: quadratures(torch.zeros_like, LIKE == 0, LIKE, 0, 4, 0), "a random vector or more"),
        (lambda: hutchinson(torch.zeros_like, LIKE, 0, 0), "a random vector or more"),
    ],
)
def test_what_is_wrong_is_said(make, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        make()
