"""The spectrum of a symmetric matrix from products with vectors: stochastic Lanczos quadrature, and the trace.

Source: Ubaru, Chen, Saad, *Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature*, SIAM J. Matrix Anal. 2017.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scionet.analysis.limit.spectrum import Spectrum
from scionet.errors import InvalidSetting
from scionet.seeds import root

Product = Callable[[Tensor], Tensor]
"""The product of a symmetric matrix with a vector."""
INVARIANT = 1e-10
"""Norm of the remainder, relative to the matrix, below which the vectors span an invariant subspace."""


@dataclass(frozen=True)
class Quadrature:
    """Nodes and weights of Gauss quadrature for the spectral measure of a vector.

    Attributes:
        spectrum: Nodes, ascending, with their weights.
        steps: Products with the matrix.
        residual: Bound on the distance of the node of largest magnitude to an eigenvalue.
    """

    spectrum: Spectrum
    steps: int
    residual: float


def lanczos(product: Product, start: Tensor, steps: int) -> Quadrature:
    """Gauss quadrature for the spectral measure of a vector v: ``Σ τ_k θ_k^p = vᵀ Hᵖ v / ‖v‖²`` for p < 2 `steps`.

    The basis is orthogonalised twice in every step. Where it spans an invariant subspace, the quadrature is exact and
    the iteration ends.

    Args:
        product: The product with the matrix H.
        start: v, ``(n,)``, not 0. The basis takes `steps` times its memory.
        steps: Largest number of products.

    Raises:
        InvalidSetting: If there are no steps, or v is 0 or not finite.
    """
    from scipy.linalg import eigh_tridiagonal  # slow to import

    norm = float(torch.linalg.vector_norm(start))
    if steps < 1 or not 0 < norm < np.inf:
        raise InvalidSetting(
            f"Lanczos needs a step or more and a finite vector other than 0; given {steps}, norm {norm}"
        )
    steps = min(steps, len(start))
    basis = start.new_empty((steps, len(start)))
    basis[0] = start / norm
    diagonal, beside, scale = [], [], 0.0
    while True:
        taken = len(diagonal) + 1
        vector = product(basis[taken - 1])
        scale = max(scale, float(torch.linalg.vector_norm(vector)))
        diagonal.append(float(basis[taken - 1] @ vector))
        for _ in range(2):
            vector = vector - basis[:taken].T @ (basis[:taken] @ vector)
        remainder = float(torch.linalg.vector_norm(vector))
        if taken == steps or remainder <= _invariant(start) * scale:
            break
        beside.append(remainder)
        basis[taken] = vector / remainder
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
    weights = vectors[0] ** 2
    largest = int(np.abs(values).argmax())
    return Quadrature(Spectrum.of(values, weights / weights.sum()), taken, remainder * abs(float(vectors[-1, largest])))


def active_coordinates(product: Product, like: Tensor, seed: int, probes: int = 3) -> Tensor:
    """Which rows of a matrix are not 0; booleans, ``(n,)``.

    Entry i of the product with a Gaussian vector is Gaussian, with the norm of row i as standard deviation. A row
    counts as 0 where the entries of all probes are rounding, relative to the largest one.

    Args:
        product: The product with the matrix.
        like: A tensor of the vectors' shape, type and device.
        seed: Seed of the probes.
        probes: Number of products.
    """
    generator = torch.Generator().manual_seed(root(seed, "limit", "active"))
    active = torch.zeros(len(like), dtype=torch.bool, device=like.device)
    for _ in range(probes):
        found = product(torch.randn(len(like), generator=generator, dtype=like.dtype).to(like.device)).abs()
        active |= found > 100 * torch.finfo(like.dtype).eps * found.max()
    return active


def quadratures(product: Product, active: Tensor, like: Tensor, seed: int, steps: int, probes: int) -> list[Quadrature]:
    """One quadrature for each of several random vectors of signs on the active rows.

    Each spectrum has the inactive coordinates as an atom at 0: Lanczos cannot tell 0 from a small eigenvalue.

    Args:
        product: The product with the matrix.
        active: Rows that are not 0.
        like: A tensor of the vectors' shape, type and device.
        seed: Seed of the vectors.
        steps: Products for each vector.
        probes: Number of vectors.

    Raises:
        InvalidSetting: If there are no steps or no probes.
    """
    if probes < 1:
        raise InvalidSetting(f"a spectrum needs a random vector or more; given {probes}")
    share = 1 - float(active.double().mean())
    if not active.any():
        return [Quadrature(Spectrum((0.0,), (1.0,)), 0, 0.0)] * probes
    found = []
    for probe in range(probes):
        start = signs(like, seed, probe) * active
        each = lanczos(lambda vector: product(vector) * active, start, min(steps, int(active.sum())))
        found.append(Quadrature(each.spectrum.with_zeros(share) if share else each.spectrum, each.steps, each.residual))
    return found


@dataclass(frozen=True)
class Trace:
    """An estimate of a trace.

    Attributes:
        value: Mean over random vectors.
        standard_error: Its standard error; None for a single vector.
    """

    value: float
    standard_error: float | None

    @classmethod
    def of(cls, estimates: Sequence[float]) -> "Trace":
        """The mean of independent estimates."""
        error = None if len(estimates) < 2 else float(np.std(estimates, ddof=1) / np.sqrt(len(estimates)))
        return cls(float(np.mean(estimates)), error)


def hutchinson(product: Product, like: Tensor, seed: int, probes: int) -> Trace:
    """The trace as the mean of ``vᵀ H v`` over random vectors of signs (Hutchinson, 1990); arguments as before.

    Raises:
        InvalidSetting: If there are no probes.
    """
    if probes < 1:
        raise InvalidSetting(f"a trace needs a random vector or more; given {probes}")
    vectors = (signs(like, seed, probe) for probe in range(probes))
    return Trace.of([float(vector @ product(vector)) for vector in vectors])


def signs(like: Tensor, seed: int, probe: int) -> Tensor:
    """A vector of random signs."""
    generator = torch.Generator().manual_seed(root(seed, "limit", "signs", probe))
    return (2 * torch.randint(2, (len(like),), generator=generator) - 1).to(like)


def _invariant(start: Tensor) -> float:
    return max(INVARIANT, 10 * torch.finfo(start.dtype).eps)
