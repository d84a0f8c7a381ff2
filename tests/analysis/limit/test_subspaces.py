"""Random subspaces against the prediction, and one Cholesky factor against every subspace by itself."""

import numpy as np
import pytest

from scionet.analysis.limit.subspaces import Transition, smallest_dimension, transitions
from scionet.errors import InvalidSetting


@pytest.fixture(scope="module")
def found() -> tuple[Transition, ...]:
    return transitions(0, 24)


@pytest.mark.parametrize(
    ("place", "measured", "predicted", "trace"),
    [
        (0, 0.985, 0.980, 0.980),
        (1, 0.885, 0.909, 0.909),
        (2, 0.845, 0.851, 0.987),
        (4, 0.385, 0.426, 0.978),
        (5, 0.105, 0.100, 0.979),
    ],
)
def test_half_of_the_subspaces_reach_the_loss_at_the_predicted_density(
    found, place: int, measured: float, predicted: float, trace: float
) -> None:
    each = found[place]
    allowed = 0.02 if place in (0, 1, 5) else 0.06
    assert each.measured == pytest.approx(measured, abs=allowed)
    assert each.predicted == pytest.approx(predicted, abs=allowed)
    assert each.predicted_trace == pytest.approx(trace, abs=0.01)


def test_the_prediction_asks_for_too_much_where_the_tolerance_is_large(found) -> None:
    """ε of the order of L(0) − L*."""
    assert found[3].measured == pytest.approx(0.46, abs=0.06)
    assert found[3].predicted == pytest.approx(0.57, abs=0.03)


def test_the_isotropic_case_is_known_exactly(found) -> None:
    for each in found[:2]:
        assert each.measured == pytest.approx(1 - 2 * each.tolerance, abs=0.01)


def test_the_share_rises_from_none_to_all(found) -> None:
    for each in found:
        assert list(each.reached) == sorted(each.reached)
        assert (each.reached[0], each.reached[-1]) == (0, 1)


def test_the_smallest_dimension_is_that_of_every_subspace_by_itself() -> None:
    size, tolerance = 30, 0.02
    eigenvalues = np.logspace(-2, 0, size)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        point = rng.standard_normal(size)
        point /= np.linalg.norm(point)
        basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
        root = np.sqrt(eigenvalues)[:, None]
        losses = []
        for k in range(size + 1):  # the best point of each span by least squares
            inside = root * basis[:, :k]
            best = np.linalg.lstsq(inside, root[:, 0] * point, rcond=None)[0] if k else np.zeros(0)
            losses.append(((root[:, 0] * point - inside @ best) ** 2).sum() / 2)
        expected = int(np.argmax(np.array(losses) <= tolerance))
        assert smallest_dimension(eigenvalues, tolerance, np.random.default_rng(seed)) == expected


def test_flat_directions_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="above 0"):
        smallest_dimension(np.zeros(3), 0.1, np.random.default_rng(0))
