"""How many units each site keeps: one density for all, by error curves, measured effects, or scores."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scionet.budget.allocation.allocate import uniform
from scionet.budget.allocation.curves import by_curves
from scionet.budget.allocation.ladder import NO_MAXIMUM
from scionet.budget.allocation.ranked import by_scores
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.methods.calibration.subsets import Subset, subsets
from scionet.methods.contract import Ranker, SiteView
from scionet.methods.refit.refit import Fitting
from scionet.methods.refit.survey import survey
from scionet.methods.widths.isomorphic import alike
from scionet.methods.widths.sensitivity import OutputDistance, effect_curve, measured_widths
from scionet.network.calling import place_of
from scionet.network.multiprocess import everywhere, summed
from scionet.network.passes.moments import Moments
from scionet.progress import Progress
from scionet.seeds import Generators
from scionet.selection.greedy import Selection, shortened
from scionet.selection.objective import FloatArray
from scionet.settings import Allocation

_ALL = 2**40
"""More examples than there are."""


@dataclass(frozen=True, eq=False)
class PredictedDistance:
    """What measured effects promise of a whole network.

    Attributes:
        distance: What they were measured with.
        predicted: The sum of all sites' effects at their widths.
    """

    distance: OutputDistance
    predicted: float

    def against(self, tensors: Mapping[str, Tensor]) -> str:
        """The promise beside what the network called with `tensors` really does to the output."""
        unit = "nats of divergence" if self.distance.metric == "kl" else "relative squared error"
        return (
            f"effect on the output: predicted {self.predicted:.3g}, measured {self.distance.effect(tensors):.3g} {unit}"
        )


@dataclass(frozen=True, eq=False)
class Curves:
    """What each site's width costs the network, before anything is shared out.

    Attributes:
        damage: Per site the error, or the effect on the output, for each number of kept units, shape ``(N + 1,)``.
        paths: Full paths of sites that are decided before the walk, where a selection is the beginning of a path.
        distance: What effects were measured with, if they were.
    """

    damage: Mapping[str, FloatArray]
    paths: Mapping[str, Selection]
    distance: OutputDistance | None = None

    def prediction(self, widths: Mapping[str, int]) -> PredictedDistance | None:
        """What measured effects promise of a network of these widths."""
        if self.distance is None:
            return None
        return PredictedDistance(self.distance, float(sum(self.damage[name][kept] for name, kept in widths.items())))


@dataclass(frozen=True, eq=False)
class SharedWidths:
    """What each site keeps, and what was found on the way.

    Attributes:
        widths: Number of units by site.
        paths: See `Curves`.
        prediction: Where effects were measured.
        tried: What came out where several widths were tried, for a person to read.
    """

    widths: Mapping[str, int]
    paths: Mapping[str, Selection] = field(default_factory=dict)
    prediction: PredictedDistance | None = None
    tried: str = ""


@dataclass(frozen=True, eq=False)
class Allocator:
    """Shares budgets out among the sites of a network. What it measures for that is measured once for all budgets.

    Attributes:
        ranker: Gives each site's path.
        fitting: Repairs consumers.
        inputs: Calibration batches without labels.
        costs: What widths cost.
        generators: Source of randomness.
        progress: Is told what goes on.
    """

    ranker: Ranker
    fitting: Fitting
    inputs: Iterable[Any]
    costs: CostModel
    generators: Generators
    progress: Progress

    def shares(
        self, budget: Budget, max_units: Mapping[str, int] = NO_MAXIMUM, factors: Mapping[str, float] | None = None
    ) -> SharedWidths:
        """The widths under a budget; `max_units` names sites that cannot use all their units.

        With `factors`, what is lost at each site counts so many times as much.
        """
        settings, model = self.fitting.settings, self.costs
        bounds = {"round_to": settings.round_to, "min_units": settings.min_units}
        if self.allocation == "uniform":
            return SharedWidths(uniform(model, budget, max_units=max_units, **bounds))
        if self.allocation == "isomorphic":
            groups = alike(self.fitting.model, self.fitting.sites)
            return SharedWidths(by_scores(model, budget, self.worths, groups, max_units=max_units, **bounds))
        weighed = {name: curve * (factors or {}).get(name, 1.0) for name, curve in self.curves.damage.items()}
        widths = by_curves(model, budget, weighed, max_units=max_units, **bounds)
        return SharedWidths(widths, self.curves.paths, self.curves.prediction(widths))

    @property
    def allocation(self) -> Allocation:
        """How a budget is shared out."""
        settings = self.fitting.settings
        fitted = (self.ranker.uses_moments or settings.refit) and not self.ranker.evaluates
        return settings.allocation or ("measured" if fitted else "uniform")

    @cached_property
    def surveyed(self) -> Subset:
        """Examples to measure errors on."""
        return subsets(self.fitting.model, self.inputs, (self.fitting.settings.survey_examples,), self.generators)[0]

    @cached_property
    def curves(self) -> Curves:
        """Error curves, or measured effects."""
        paths: dict[str, Selection] = {}
        if self.allocation == "curves":
            return Curves(self.error_curves(paths), paths)
        apart, others, _ = self.parts
        distance = OutputDistance.of(self.fitting.model, apart, self.fitting.settings.metric)
        return Curves(self.effect_curves(distance, others, paths), paths, distance)

    @cached_property
    def worths(self) -> dict[str, FloatArray]:
        """What each unit is worth in the dense network, ``(width,)`` by site."""
        fitting = self.fitting
        if self.ranker.uses_moments:
            views = (v for v, _ in survey(fitting, self.surveyed, fitting.sites, self.generators, self.progress))
        else:
            views = (SiteView(s, fitting.sites, fitting.model, (), {}, {}, self.inputs) for s in fitting.sites.values())
        return {view.site.name: self.ranker.worth(view, self.generators("rank", view.site.name)) for view in views}

    def error_curves(self, paths: dict[str, Selection]) -> dict[str, FloatArray]:
        """Per site the relative error at its consumers for each number of kept units, 0 to N; keeps `paths`."""
        return {
            view.site.name: error_curve(path, view.site.width) for view, _, path in self.problems(self.surveyed, paths)
        }

    def effect_curves(
        self, distance: OutputDistance, batches: Iterable[Any], paths: dict[str, Selection]
    ) -> dict[str, FloatArray]:
        """Per site the effect on the network's output for each number of kept units, 0 to N; keeps `paths`."""
        errors: dict[str, FloatArray] = {}
        measured: dict[str, tuple[int, ...]] = {}
        changes: list[Mapping[str, Tensor]] = []
        for view, moments, path in self.problems(batches, paths):
            name = view.site.name
            errors[name] = error_curve(path, view.site.width)
            measured[name] = measured_widths(errors[name], self.fitting.settings.measured_widths)
            changes += [self.pruned_alone(view, moments, path, width) for width in measured[name]]
        effects = iter(distance.effects(changes, self.progress))
        return {
            name: effect_curve(errors[name], widths, [float(next(effects)) for _ in widths])
            for name, widths in measured.items()
        }

    def problems(
        self, batches: Iterable[Any], paths: dict[str, Selection]
    ) -> Iterator[tuple[SiteView, Mapping[str, Moments], Selection]]:
        """Each site in the dense network with its full path."""
        for view, moments in survey(self.fitting, batches, self.fitting.sites, self.generators, self.progress):
            path = self.rank(view, view.site.width)
            if self.ranker.nested and not self.fitting.waits(view.site):
                paths[view.site.name] = path
            yield view, moments, path

    def rank(self, view: SiteView, n_units: int) -> Selection:
        """The ranker's answer, with randomness of the site's own."""
        return self.ranker.rank(view, n_units, self.generators("rank", view.site.name))

    @cached_property
    def parts(self) -> tuple[Subset, Subset, Subset]:
        """Examples to measure effects on; to measure errors on: others, where there are twice as many; and the rest."""
        model, settings = self.fitting.model, self.fitting.settings
        counts = settings.measured_examples, settings.survey_examples, _ALL
        apart, others, rest = subsets(model, self.inputs, counts, lambda *axes: self.generators("apart", *axes))
        device = place_of(model)[0]
        n_apart, n_others = summed(torch.tensor([apart.count, others.count], device=device)).tolist()
        enough = n_others >= 2 * n_apart and everywhere(others.count > 0, device)
        return apart, others if enough else self.surveyed, rest

    def pruned_alone(
        self, view: SiteView, moments: Mapping[str, Moments], path: Selection, n_units: int
    ) -> Mapping[str, Tensor]:
        """Tensors of the dense network in which one site alone keeps `n_units` units, its consumers repaired."""
        selection = shortened(path, n_units) if self.ranker.nested else self.rank(view, n_units)
        return self.fitting.repair(view.site, moments)(selection, {}, {})


def error_curve(path: Selection, width: int) -> FloatArray:
    """Smallest relative error with at most 0 .. N units, shape ``(N + 1,)``."""
    curve = np.full(width + 1, np.inf)
    seen: set[int] = set()
    for unit, value in zip(path.order, path.values, strict=True):
        seen.add(unit)
        curve[len(seen)] = min(curve[len(seen)], -value)
    return np.minimum.accumulate(curve)
