"""Random subspaces that meet an ellipsoid or miss it: where the prediction can be checked without a network."""

from dataclasses import dataclass

import numpy as np

from scionet.analysis.limit.spectrum import Spectrum
from scionet.errors import InvalidSetting
from scionet.seeds import seeded
from scionet.typing import FloatArray

DIMENSION = 200


@dataclass(frozen=True)
class Transition:
    """From which dimension on a random subspace reaches a loss, measured and predicted.

    Attributes:
        label: Name of the spectrum.
        tolerance: ε, which the loss must not exceed.
        densities: Dimensions of subspaces over that of the space, ascending.
        reached: Share of random subspaces that reach the loss, by density.
        measured: Density at which half of them do.
        predicted: ``1 − f(R)`` from the whole spectrum.
        predicted_trace: The same from the trace alone.
    """

    label: str
    tolerance: float
    densities: tuple[float, ...]
    reached: tuple[float, ...]
    measured: float
    predicted: float
    predicted_trace: float


def transition(
    label: str, eigenvalues: FloatArray, tolerance: float, rng: np.random.Generator, draws: int
) -> Transition:
    """Measure from which dimension on random subspaces meet the ellipsoid around a random point at distance 1.

    The loss is ``½ (x − w)ᵀ H (x − w)`` with a diagonal H and ``‖w‖ = 1``.

    Args:
        label: Name of the spectrum.
        eigenvalues: The diagonal of H, all above 0, ``(D,)``.
        tolerance: ε.
        rng: Source of the subspaces.
        draws: Number of random points, each with nested random subspaces of all dimensions.

    Raises:
        InvalidSetting: If an eigenvalue is not above 0.
    """
    size = len(eigenvalues)
    least = np.sort([smallest_dimension(eigenvalues, tolerance, rng) for _ in range(draws)])
    densities = np.arange(size + 1) / size
    reached = np.searchsorted(least, np.arange(size + 1), side="right") / draws
    spectrum = Spectrum.of(eigenvalues)
    return Transition(
        label,
        tolerance,
        tuple(densities.tolist()),
        tuple(reached.tolist()),
        float(np.median(least)) / size,
        1 - spectrum.dimension(1.0, tolerance),
        1 - spectrum.averaged.dimension(1.0, tolerance),
    )


def smallest_dimension(eigenvalues: FloatArray, tolerance: float, rng: np.random.Generator) -> int:
    """The smallest number of leading columns of a random orthogonal Q whose span reaches the loss.

    The best loss in the span of k columns is ``½ wᵀ (H − H Q (Qᵀ H Q)⁻¹ Qᵀ H) w``. One Cholesky factor
    ``L Lᵀ = Qᵀ H Q`` yields it for all k: each entry of ``L⁻¹ Qᵀ H w`` lowers it by half its square.

    Raises:
        InvalidSetting: If an eigenvalue is not above 0.
    """
    from scipy.linalg import cholesky, solve_triangular  # slow to import

    if not (eigenvalues > 0).all():
        raise InvalidSetting("random subspaces need eigenvalues above 0")
    size = len(eigenvalues)
    point = rng.standard_normal(size)
    point /= np.linalg.norm(point)
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    factor = cholesky(basis.T @ (eigenvalues[:, None] * basis), lower=True)
    gains = solve_triangular(factor, basis.T @ (eigenvalues * point), lower=True) ** 2 / 2
    losses = eigenvalues @ point**2 / 2 - np.concatenate([[0.0], np.cumsum(gains)])
    return int(np.argmax(losses <= tolerance)) if (losses <= tolerance).any() else size


def spectra(size: int = DIMENSION) -> list[tuple[str, FloatArray, float]]:
    """Spectra from isotropic to nearly flat: name, eigenvalues and tolerance."""
    bulk = np.full(size, 1e-8)
    bulk[: size // 10] = np.linspace(0.5, 1.5, size // 10)
    return [
        ("all 1", np.ones(size), 0.01),
        ("all 1", np.ones(size), 0.05),
        ("10⁻³ to 1", np.logspace(-3, 0, size), 1e-3),
        ("10⁻³ to 1", np.logspace(-3, 0, size), 1e-2),
        ("10⁻⁶ to 1", np.logspace(-6, 0, size), 1e-3),
        ("0.5 to 1.5, and 10⁻⁸", bulk, 1e-3),
    ]


def transitions(seed: int, draws: int = 24) -> tuple[Transition, ...]:
    """The transitions of all `spectra`."""
    rng = seeded(seed)("limit", "subspaces")
    return tuple(transition(*each, rng, draws) for each in spectra())
