"""How many units each site keeps: one density for all, by error curves, or by measured effects on the output."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from scionet.budget.allocate import by_curves, uniform
from scionet.budget.costs import CostModel
from scionet.budget.limits import Budget
from scionet.methods.contract import Draw, Progress, Ranker, SiteView
from scionet.methods.effects import Gauge, effect_curve, measured_widths
from scionet.methods.fitting import Fitting
from scionet.methods.survey import first_examples, survey
from scionet.network.moments import Moments
from scionet.network.processes import everywhere
from scionet.network.running import place_of
from scionet.selection.greedy import Selection, shortened
from scionet.selection.objective import FloatArray


@dataclass(frozen=True, eq=False)
class Forecast:
    """What measured effects promise of a whole network.

    Attributes:
        gauge: What they were measured with.
        predicted: The sum of all sites' effects at their widths.
    """

    gauge: Gauge
    predicted: float

    def against(self, tensors: Mapping[str, Tensor]) -> str:
        """The promise beside what the network called with `tensors` really does to the output."""
        unit = "nats of divergence" if self.gauge.metric == "kl" else "relative squared error"
        return f"effect on the output: predicted {self.predicted:.3g}, measured {self.gauge.effect(tensors):.3g} {unit}"


@dataclass(frozen=True, eq=False)
class Shares:
    """What each site keeps, and what was found on the way.

    Attributes:
        widths: Number of units by site.
        paths: Full paths of sites that are decided before the walk, where a selection is the beginning of a path.
        forecast: Where effects were measured.
    """

    widths: Mapping[str, int]
    paths: Mapping[str, Selection] = field(default_factory=dict)
    forecast: Forecast | None = None


@dataclass(frozen=True, eq=False)
class Allocator:
    """Shares a budget out among the sites of a network.

    Attributes:
        ranker: Gives each site's path.
        fitting: Repairs consumers.
        inputs: Calibration batches without labels.
        draw: Source of randomness.
        progress: Is told what goes on.
    """

    ranker: Ranker
    fitting: Fitting
    inputs: Iterable[Any]
    draw: Draw
    progress: Progress

    def shares(self, budget: Budget) -> Shares:
        """The widths under a budget."""
        settings, model = self.fitting.settings, CostModel(self.fitting.sites)
        options = {"round_to": settings.round_to, "min_units": settings.min_units}
        fitted = (self.ranker.uses_moments or settings.refit) and not self.ranker.evaluates
        allocation = settings.allocation or ("curves" if fitted else "uniform")
        if allocation == "uniform":
            return Shares(uniform(model, budget, **options))
        paths: dict[str, Selection] = {}
        if allocation == "curves":
            return Shares(by_curves(model, budget, self.error_curves(paths), **options), paths)
        apart, others = self.kept_apart()
        gauge = Gauge.of(self.fitting.model, apart, settings.metric)
        curves = self.effect_curves(gauge, others, paths)
        widths = by_curves(model, budget, curves, **options)
        return Shares(widths, paths, Forecast(gauge, float(sum(curves[name][kept] for name, kept in widths.items()))))

    def error_curves(self, paths: dict[str, Selection]) -> dict[str, FloatArray]:
        """Per site the relative error at its consumers for each number of kept units, 0 to N; keeps `paths`."""
        return {
            view.site.name: error_curve(path, view.site.width) for view, _, path in self.surveyed(self.inputs, paths)
        }

    def effect_curves(self, gauge: Gauge, batches: Iterable[Any], paths: dict[str, Selection]) -> dict[str, FloatArray]:
        """Per site the effect on the network's output for each number of kept units, 0 to N; keeps `paths`."""
        curves = {}
        for view, moments, path in self.surveyed(batches, paths):
            widths = measured_widths(view.site.width)
            effects = {n: gauge.effect(self.pruned_alone(view, moments, path, n)) for n in widths}
            curves[view.site.name] = effect_curve(error_curve(path, view.site.width), effects)
        return curves

    def surveyed(
        self, batches: Iterable[Any], paths: dict[str, Selection]
    ) -> Iterator[tuple[SiteView, Mapping[str, Moments], Selection]]:
        """Each site in the dense network with its full path."""
        for view, moments in survey(self.fitting, batches, self.fitting.sites, self.draw, self.progress):
            path = self.rank(view, view.site.width)
            if self.ranker.nested and not self.fitting.waits(view.site):
                paths[view.site.name] = path
            yield view, moments, path

    def rank(self, view: SiteView, n_units: int) -> Selection:
        """The ranker's answer, with randomness of the site's own."""
        return self.ranker.rank(view, n_units, self.draw("rank", view.site.name))

    def kept_apart(self) -> tuple[list[Any], Iterable[Any]]:
        """Calibration batches to measure effects on, and the others; all of them for both where nothing is left."""
        apart = list(first_examples(self.inputs, self.fitting.settings.measured_examples))
        others = _After(self.inputs, len(apart))
        anything_left = everywhere(next(iter(others), None) is not None, place_of(self.fitting.model)[0])
        return apart, others if anything_left else self.inputs

    def pruned_alone(
        self, view: SiteView, moments: Mapping[str, Moments], path: Selection, n_units: int
    ) -> Mapping[str, Tensor]:
        """Tensors of the dense network in which one site alone keeps `n_units` units, its consumers repaired."""
        selection = shortened(path, n_units) if self.ranker.nested else self.rank(view, n_units)
        return self.fitting.repair(view.site, moments)(selection, {}, {})


@dataclass(frozen=True, eq=False)
class _After:
    """Batches without the first few, iterable again and again."""

    batches: Iterable[Any]
    first: int

    def __iter__(self) -> Iterator[Any]:
        return islice(self.batches, self.first, None)


def error_curve(path: Selection, width: int) -> FloatArray:
    """Smallest relative error with at most 0 .. N units, shape ``(N + 1,)``."""
    curve = np.full(width + 1, np.inf)
    seen: set[int] = set()
    for unit, value in zip(path.order, path.values, strict=True):
        seen.add(unit)
        curve[len(seen)] = min(curve[len(seen)], -value)
    return np.minimum.accumulate(curve)
