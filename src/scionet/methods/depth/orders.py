"""The order in which branches are dropped, and what is predicted to be missed without the first of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from scionet.budget.budget import QUANTITIES, Budget
from scionet.choices.depth import BranchDamage, BranchElimination, BranchScores
from scionet.methods.depth.measures import Measure, branch_scores
from scionet.methods.method_run import MethodRun
from scionet.network.branches import Branch
from scionet.typing import FloatArray

_LEAST_SAVED = 1e-9
"""Fraction of the dense cost that a branch saves at least, so that ratios are finite."""


@dataclass(frozen=True)
class Dropping:
    """Some branches, and what is missed without them.

    Attributes:
        names: The branches, in the order in which they are dropped.
        damage: The measured damage of all together, or the sum of their own damages.
    """

    names: tuple[str, ...] = ()
    damage: float = 0.0


@dataclass(frozen=True, eq=False)
class BranchOrder:
    """Orders the branches of a network.

    Attributes:
        run: The method at work.
        constants: What takes the place of each branch.
        measure: How much branches are missed; None if that does not matter.
        scores: The score of each unit, for orders by scores.
    """

    run: MethodRun
    constants: Mapping[str, Tensor | None]
    measure: Measure | None
    scores: Mapping[str, FloatArray]

    def droppings(
        self, rule: BranchDamage | BranchElimination | BranchScores, budget: Budget | None
    ) -> Iterator[Dropping]:
        """No branch, the first one of the order, the first two, and so on.

        Args:
            rule: What the order is.
            budget: The quantities that count as saved; MACs without one.
        """
        if isinstance(rule, BranchElimination):
            return self._eliminated(self._saved(budget))
        if isinstance(rule, BranchDamage):
            saved = self._saved(budget)
            order = sorted(self._branches, key=lambda name: self.own_damage[name] / saved[name])
        else:
            scores = branch_scores(self.scores, self.run, rule.over_units)
            order = sorted(scores, key=scores.__getitem__)
        return self._in_order(order)

    @cached_property
    def own_damage(self) -> dict[str, float]:
        """The damage by dropping each branch alone; 0 if it is not measured."""
        if self.measure is None:
            return dict.fromkeys(self._branches, 0.0)
        found = self.measure.of_each([self._without([name]) for name in self._branches])
        return dict(zip(self._branches, found.tolist(), strict=True))

    @property
    def _branches(self) -> Mapping[str, Branch]:
        return self.run.sites.branches

    def _in_order(self, order: Sequence[str]) -> Iterator[Dropping]:
        """The branches in a given order, but for those inside others before; their own damages add up."""
        dropping = Dropping()
        yield dropping
        for name in order:
            if self._fits(name, dropping.names):
                damage = dropping.damage + self.own_damage[name]
                yield (dropping := Dropping((*dropping.names, name), damage))

    def _eliminated(self, saved: Mapping[str, float]) -> Iterator[Dropping]:
        """At each step the branch of least further damage per cost that it saves, measured without those before."""
        assert self.measure is not None
        dropping = Dropping()
        yield dropping
        while left := [name for name in self._branches if self._fits(name, dropping.names)]:
            if dropping.names:
                damages = self.measure.of_each([self._without([*dropping.names, name]) for name in left])
            else:
                damages = np.array([self.own_damage[name] for name in left])
            ratios = (damages - dropping.damage) / [saved[name] for name in left]
            best = int(ratios.argmin())
            yield (dropping := Dropping((*dropping.names, left[best]), float(damages[best])))

    def _fits(self, name: str, names: Sequence[str]) -> bool:
        """Whether a branch is none of some others, inside none of them, and around none."""
        return not any(self._branches[name].overlaps(self._branches[other]) for other in names)

    def _without(self, names: Sequence[str]) -> Mapping[str, Tensor]:
        """The tensors of the network without some branches."""
        return self.run.network.without({name: self.constants[name] for name in names}).masked({})

    def _saved(self, budget: Budget | None) -> dict[str, float]:
        """The fraction of the dense cost that each branch saves, added over the limited quantities."""
        costs = self.run.problem.costs
        fields = [QUANTITIES[name] for name in (budget.quantities if budget is not None else ("macs",))]
        found = {}
        for name in self._branches:
            left = costs.without({name: self.constants[name]}).cost({})
            parts = [1 - getattr(left, each) / (getattr(costs.dense, each) or 1) for each in fields]
            found[name] = max(sum(parts), _LEAST_SAVED)
        return found
