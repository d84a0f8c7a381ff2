"""MethodRun: the state that all walks of one method through one network share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import Tensor

from scionet.choices.settings import Settings
from scionet.methods.calibration.calibration import ALL, Calibration
from scionet.methods.contract import Ranker, SiteView
from scionet.methods.problem import Problem
from scionet.methods.refit.refit import Fitting, Sample
from scionet.methods.widths.output_distance import OutputDistance
from scionet.network.calling import Batch
from scionet.network.network import Network
from scionet.network.sites import Site, Sites
from scionet.progress import Progress
from scionet.seeds import Generators
from scionet.selection.greedy import Selection
from scionet.typing import BoolArray


@dataclass(frozen=True, eq=False)
class MethodRun:
    """One method at work on one network.

    Attributes:
        problem: The network, the calibration examples and the costs.
        ranker: Orders the units of a site.
        fitting: Measures and fits consumers.
        settings: Widths, repair, limits and resources.
        generators: Source of randomness.
        progress: Called with the stage, the steps done and the steps in total.
    """

    problem: Problem
    ranker: Ranker
    fitting: Fitting
    settings: Settings
    generators: Generators
    progress: Progress

    @property
    def network(self) -> Network:
        """The dense network."""
        return self.problem.network

    @property
    def sites(self) -> Sites:
        """The network's sites."""
        return self.problem.sites

    @property
    def calibration(self) -> Calibration:
        """The calibration examples."""
        return self.problem.calibration

    @property
    def memory_bytes(self) -> float:
        """Memory for cached activations."""
        return self.settings.resources.memory_bytes

    def without(self, dropped: Mapping[str, Tensor | None]) -> "MethodRun":
        """The same on the network without some branches.

        Args:
            dropped: By name of the branch a constant for each channel, or None.
        """
        network, costs = self.network.without(dropped), self.problem.costs.without(dropped)
        problem = replace(self.problem, network=network, costs=costs)
        return replace(self, problem=problem, fitting=replace(self.fitting, network=network))

    def generator_of(self, site: Site) -> np.random.Generator:
        """The source of randomness for choices at one site."""
        return self.generators("rank", site.name)

    def ranked(self, view: SiteView, n_units: int) -> Selection:
        """Let the ranker pick units of a site until `n_units` different ones are kept."""
        return self.ranker.rank(view, n_units, self.generator_of(view.site))

    def distance_on(self, inputs: Iterable[Batch]) -> OutputDistance:
        """The distance of the outputs on some examples, of which this process may have none."""
        like = next(iter(self.calibration.inputs), None)
        return OutputDistance.on(self.network, inputs, self.settings.outputs, like)

    @property
    def judged(self) -> Calibration:
        """The examples that changes of the output are measured on: held-out ones, if there are any."""
        found = self.surveyed if self.problem.held_out is None else self.problem.held_out
        count = self.settings.judged_examples
        return found.parts((count,), lambda *axes: self.generators("parts", *axes), self.network.device)[0]

    @property
    def surveyed(self) -> Calibration:
        """Examples on which error curves are measured and residual streams are decided."""
        return self._surveyed_and_rest[0]

    @property
    def unsurveyed(self) -> Calibration:
        """The other examples of the calibration."""
        return self._surveyed_and_rest[1]

    @cached_property
    def _surveyed_and_rest(self) -> tuple[Calibration, ...]:
        counts = (self.settings.resources.survey_examples, ALL)
        return self.calibration.parts(counts, self.generators, self.network.device, in_each_process=True)


class Sampler:
    """Determines the sampled positions of every batch, at every consumer that a pass reaches."""

    def __init__(self, run: MethodRun, calibration: Calibration, purpose: str) -> None:
        """Choose the held-out examples, if the refit holds any out.

        Args:
            run: The method at work.
            calibration: The examples of the pass.
            purpose: Name of the pass, from which the randomness is derived.
        """
        self._run, self._batches, self._purpose = run, calibration.batches, purpose
        self._held: list[BoolArray] | None = None
        if run.fitting.holds_out:
            self._held = calibration.held_out(run.generators, run.network.device)
        self._keys: dict[tuple[str, int], int] = {}

    def sample(self, weight: str, visit: int, batch: int) -> Sample:
        """The examples of one batch at one consumer.

        Args:
            weight: The consumer.
            visit: How many times the pass has reached it before.
            batch: Number of the batch.
        """
        if (weight, visit) not in self._keys:
            generator = self._run.generators(self._purpose, weight, visit)
            self._keys[weight, visit] = int(generator.integers(2**63))
        held = None if self._held is None else self._held[batch]
        return Sample(self._batches[batch].numbers, self._keys[weight, visit], held)
