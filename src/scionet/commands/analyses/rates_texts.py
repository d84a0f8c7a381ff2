"""Numbers of an analysis of rates as texts and lines."""

from collections.abc import Sequence

from scionet.analysis.rates.curves import Curve, Slope
from scionet.analysis.rates.geometry import Geometry
from scionet.analysis.rates.hulls import Bounds
from scionet.commands.analyses.study_page import Line

GEOMETRY = (
    "Distance and radius say where the target lies among the neurons' outputs. A distance of 0 is inside their convex "
    "hull, and the radius is that of the largest ball around the target inside it (≤: only an upper bound). From "
    "D²/4γ² picks on, the bound of the fast rate is below that of the general one."
)
"""What the columns of distances and radii mean."""
EARLY = 320
"""Windows that end at this number of picks or before are early ones."""


def line(curve: Curve, label: str | None = None, *, factor: float = 1.0, dashed: bool = False) -> Line:
    """A curve as a line of a panel; values that a logarithmic axis cannot show are left out."""
    points = [(float(n), factor * value) for n, value in zip(curve.n, curve.values, strict=True) if value > 0]
    x, y = zip(*points, strict=True) if points else ((), ())
    return Line(label or curve.label, x, y, dashed)


def bound(label: str, n: Sequence[int], values: Sequence[float]) -> Line:
    """A dashed line over some numbers of picks."""
    return Line(label, tuple(map(float, n)), tuple(values), True)


def slope_text(slope: Slope | None) -> str:
    """A slope with its interval: ``−1.98 (−2.02 to −1.95)``; a dash for None."""
    if slope is None:
        return "–"
    value = signed(slope.value)
    if slope.low is None or slope.high is None:
        return value
    return f"{value} ({signed(slope.low)} to {signed(slope.high)})"


def slope_texts(slopes: Sequence[Slope]) -> tuple[str, str]:
    """The slopes of the early and of the late windows, each with its window."""
    texts = [[f"{window(s)}: {slope_text(s)}" for s in slopes if (s.last <= EARLY) is early] for early in (True, False)]
    return "; ".join(texts[0]) or "–", "; ".join(texts[1]) or "–"


def signed(value: float) -> str:
    """Two decimals with a minus sign that typesetters use."""
    return f"{value:.2f}".replace("-", "−")


def window(slope: Slope) -> str:
    """The window of a slope."""
    return f"n = {slope.first}–{slope.last}"


def distance_text(distance: Bounds) -> str:
    """0 where the target lies in the hull."""
    return "0" if distance.low == 0 else f"{distance.high:.2g}"


def radius_text(radius: Bounds | None) -> str:
    """A radius: exact, with both bounds, or only the upper one."""
    if radius is None:
        return "–"
    if radius.high == 0:
        return "0"
    if radius.low == 0:
        return f"≤ {radius.high:.2g}"
    if radius.high - radius.low <= 1e-6 * radius.high:
        return f"{radius.high:.2g}"
    return f"{radius.low:.2g}–{radius.high:.2g}"


def onset_text(geometry: Geometry) -> str:
    """The number of picks from which the fast rate's bound is the lower one."""
    return "–" if geometry.onset is None else rounded(geometry.onset)


def rounded(value: float) -> str:
    """A large number with two significant digits: ``55,000``."""
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def number(value: float | None) -> str:
    """Three significant digits; a dash for None."""
    return "–" if value is None else f"{value:.3g}"
