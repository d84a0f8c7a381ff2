"""Sensitivity of the output to each site's width, measured at a few widths and interpolated by the error curve."""

from collections.abc import Sequence

import numpy as np

from scionet.typing import FloatArray

NEGLIGIBLE = 1e-6
"""Below this fraction of its largest value an error carries no information."""

_LEAST = 1e-12
"""Distances below this are rounding errors, because of which a divergence can be negative."""


def measured_widths(errors: FloatArray, count: int) -> tuple[int, ...]:
    """The widths of a site at which the sensitivity is measured, ascending: half of its units, a quarter, ...

    The first is smaller if half of the units already have no error.
    """
    half = max(1, (len(errors) - 1) // 2)
    damaging = np.flatnonzero(errors[: half + 1] > NEGLIGIBLE * errors[np.isfinite(errors)].max())
    first = max(1, int(damaging[-1])) if len(damaging) else half
    return tuple(sorted({first // 2**n for n in range(count)} - {0}))


def sensitivity_curve(errors: FloatArray, widths: Sequence[int], distances: Sequence[float]) -> FloatArray:
    """Predict the distance of the output at each width of a site.

    It is the site's own error times a factor. The factor is measured at some widths, interpolated linearly
    between them, and constant beyond them.

    Args:
        errors: The site's error at each width, falling, shape ``(N + 1,)``.
        widths: The widths at which distances were measured, ascending.
        distances: The measured distances.

    Returns:
        Distance at each width, shape ``(N + 1,)``; 0 at N, infinite where `errors` is.
    """
    excess = errors - errors[-1]
    known = [width for width in widths if 0 < excess[width] < np.inf]
    factors = [max(found, _LEAST) / excess[w] for w, found in zip(widths, distances, strict=True) if w in known]
    slope = np.interp(np.arange(len(errors)), known, factors) if known else 1.0
    return np.where(np.isfinite(errors), excess * slope, np.inf)
