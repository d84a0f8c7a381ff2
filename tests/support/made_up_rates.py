"""A study of rates that nobody measured, for tests of its page."""

from scionet.analysis.rates.curves import Curve, Slope
from scionet.analysis.rates.geometry import Geometry
from scionet.analysis.rates.hulls import Bounds
from scionet.analysis.rates.imitation import SiteImitation
from scionet.analysis.rates.planted import Planted
from scionet.analysis.rates.pretraining import Growth, Pretraining, PretrainingStudy, Threshold
from scionet.analysis.rates.scratch import STANDARD, ScratchComparison
from scionet.analysis.rates.study import RatesStudy
from scionet.analysis.rates.untrained import Neurons

INSIDE = Geometry(40, 3, Bounds(0.0, 1e-12), Bounds(0.25, 0.5), 2.0, 3.0)
OUTSIDE = Geometry(40, 300, Bounds(0.2, 0.2), None, 2.0, 3.0)


def curve(label: str) -> Curve:
    return Curve(label, (1, 10, 100), (1.0, 0.1, 0.01))


def slope(last: int, value: float) -> Slope:
    return Slope(last // 10, last, value, value - 0.1, value + 0.1, 3)


def comparison(label: str, crossover: float | None, ahead: int, geometry: Geometry) -> ScratchComparison:
    slopes = (slope(300, -1.8), slope(1000, -1.96))
    curves = curve("pruned"), curve("scratch")
    return ScratchComparison(label, 100, STANDARD, 0.05, *curves, slopes, slope(320, -0.8), crossover, ahead, geometry)


def planted(label: str, drawn: bool) -> Planted:
    lines = curve("uniform"), curve("line search"), curve("random atoms") if drawn else None, curve("distinct")
    return Planted(label, INSIDE, *lines, (slope(300, -1.0),), slope(1000, -1.0) if drawn else None, 1.5, 0.9)


def study() -> RatesStudy:
    thresholds = tuple(Threshold(m, (7.0, None), curve("pruned"), curve("whole")) for m in (64, 128))
    growth = Growth(10.0, 9.0, 11.0, 0.95), Growth(0.5, 0.4, 0.6, 0.85)
    site = SiteImitation(
        "layer1 <b>$x$</b>", 16, (curve("greedy"), curve("random")), (slope(300, -1.2),), INSIDE, 3.0, 0.99, 15, 128
    )
    neurons = tuple(
        Neurons(f"{n} neurons", curve(str(n)), slope(1000, -1.0), g) for n, g in ((3, OUTSIDE), (4, INSIDE))
    )
    return RatesStudy(
        (0, 1, 2),
        (planted("tight", False), planted("tanh", True)),
        (
            comparison("crossing", 250.0, 3, INSIDE),
            comparison("never", None, 0, INSIDE),
            comparison("always", None, 5, OUTSIDE),
        ),
        neurons,
        PretrainingStudy(Pretraining(), thresholds, *growth),
        (site,),
    )
