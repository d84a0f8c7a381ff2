"""How the eigenvalues of a matrix are distributed, and what that says about the set where a quadratic form is small."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from scionet.errors import InvalidSetting
from scionet.typing import FloatArray

Negatives = Literal["absolute", "flat"]
"""Negative eigenvalues count with their absolute value, or as 0: flat directions."""
SUM_ERROR = 1e-9
"""Shares may miss a sum of 1 by this much."""


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues with the share of the dimensions that each stands for.

    Dimensions without curvature have the eigenvalue 0 exactly: an atom of its own, since quadrature cannot tell it from
    1e-6.

    Attributes:
        values: Eigenvalues, or nodes of a quadrature.
        shares: Their shares, 0 or more, sum 1.
    """

    values: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check shapes and ranges.

        Raises:
            InvalidSetting: If there are no values, or they are not finite, or shares are negative or do not sum to 1.
        """
        values, shares = self._arrays
        if not len(values) == len(shares) > 0:
            raise InvalidSetting(
                f"a spectrum has as many shares as values, one or more; given {len(values)} and {len(shares)}"
            )
        if not np.isfinite(values).all():
            raise InvalidSetting("the eigenvalues of a spectrum must be finite; some are NaN or infinite")
        if not (shares >= 0).all() or abs(shares.sum() - 1) > SUM_ERROR:
            raise InvalidSetting(f"shares must be 0 or more and sum to 1; their sum is {shares.sum():.12g}")

    @classmethod
    def of(cls, values: FloatArray, shares: FloatArray | None = None) -> "Spectrum":
        """Eigenvalues ``(k,)`` with their shares; by default equal ones."""
        if shares is None:
            shares = np.full(len(values), 1 / max(len(values), 1))
        return cls(tuple(map(float, values)), tuple(map(float, shares)))

    @classmethod
    def mean(cls, spectra: Sequence["Spectrum"]) -> "Spectrum":
        """The mean of several estimates."""
        values, shares = (np.concatenate(parts) for parts in zip(*(each._arrays for each in spectra), strict=True))
        return cls.of(values, shares / len(spectra))

    @cached_property
    def _arrays(self) -> tuple[FloatArray, FloatArray]:
        return np.array(self.values, dtype=np.float64), np.array(self.shares, dtype=np.float64)

    def with_zeros(self, share: float) -> "Spectrum":
        """The same spectrum as that of a block, with this share of further dimensions without curvature.

        Raises:
            InvalidSetting: If the share is not from 0 to 1.
        """
        if not 0 <= share <= 1:
            raise InvalidSetting(f"a share lies between 0 and 1; given {share}")
        return Spectrum.of(np.append(self.values, 0.0), np.append((1 - share) * self._arrays[1], share))

    @property
    def mean_size(self) -> float:
        """Mean absolute eigenvalue: the trace of ``|H|`` over the number of dimensions."""
        values, shares = self._arrays
        return float(shares @ np.abs(values))

    @property
    def averaged(self) -> "Spectrum":
        """All dimensions with the mean absolute eigenvalue: the trace form."""
        return Spectrum((self.mean_size,), (1.0,))

    @property
    def zero_share(self) -> float:
        """Share of the dimensions without curvature."""
        values, shares = self._arrays
        return float(shares[values == 0].sum())

    @property
    def negative_share(self) -> float:
        """Share of the dimensions along which the loss curves downwards."""
        values, shares = self._arrays
        return float(shares[values < 0].sum())

    def dimension(self, squared_radius: float, tolerance: float, negatives: Negatives = "absolute") -> float:
        """Normalised statistical dimension, from 0 to 1, of the set where the quadratic loss rises by at most ε.

        ``f(R) = Σ_i share_i · 2ε / (|λ_i| R² + 2ε)``: the ellipsoid ``Δᵀ H Δ ≤ 2ε``, projected on the sphere around a
        point at distance R from its centre. At R = 0 the point lies in the set and f is 1. At ε = 0 and R > 0, f is 0.

        Args:
            squared_radius: R².
            tolerance: ε, in the unit of the loss.
            negatives: How negative eigenvalues count.

        Raises:
            InvalidSetting: If the radius or the tolerance is negative or not finite.
        """
        for name, number in (("squared_radius", squared_radius), ("tolerance", tolerance)):
            if not 0 <= number < np.inf:
                raise InvalidSetting(f"{name} must be finite and 0 or more; given {number}")
        if squared_radius == 0:
            return 1.0
        if tolerance == 0:
            return 0.0
        values, shares = self._arrays
        curvature = np.maximum(values, 0) if negatives == "flat" else np.abs(values)
        return float(shares @ (1 / (1 + curvature * (squared_radius / (2 * tolerance)))))
